"""The stage: a folder, a server, nodes and a producer of its own; all gone when it is left, however it is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mirrorneuron
from mirrorneuron.chaos import process_tree, producer
from mirrorneuron.chaos.server import Server
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.pools import LIGHT
from mirrorneuron.processes.groups import kill_group
from mirrorneuron.settings import PREFIX, Settings
from mirrorneuron.store.connection import AWAY, connect
from mirrorneuron.store.job_store import Store

NODES: Final = ("one", "two")
SLOTS: Final = 2  #: of each node
LEASE_MS: Final = 1_500
UP_S: Final = 60.0  #: until the nodes have registered
LOOK_S: Final = 0.05
ANSWER_S: Final = 20.0  #: of the server, to us; while it is frozen it is not asked
TAIL_BYTES: Final = 4_000
SOURCE: Final = str(Path(mirrorneuron.__file__).parents[1])  #: so that all starts from a checkout, too


@dataclass
class Actor:
    """A process of the stage that may be killed and started again."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        self.process = process_tree.start(self.argv, self.folder, self.environment, self.log)

    def kill(self) -> None:
        """Kill it, and where that does not take its children along, them too."""
        below = process_tree.beneath(self.pid) if sys.platform != "linux" else []
        process_tree.kill(self.pid)
        for child in below:
            kill_group(child.group) if child.leads else process_tree.kill(child.pid)
        assert self.process is not None
        self.process.wait()

    def tail(self) -> str:
        """The end of what it said."""
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace") if self.log.exists() else ""


class Stage:
    """Processes and a folder for one crash test. Single-threaded: children shall die with the thread that starts them.

    *node_argv* is the command of a node (`mn worker`), without its name.
    """

    def __init__(self, folder: Path, server: Server, environment: Mapping[str, str], node_argv: Sequence[str]) -> None:
        self.folder = folder
        self.server = server
        self.settings = _settings(server.url, folder)
        self.store = Store(self.settings, client=connect(server.url, timeout_s=ANSWER_S))
        self._environment = {**environment, **_variables(self.settings)}
        self.nodes = [self._node(name, node_argv) for name in NODES]
        command = (sys.executable, "-P", "-m", producer.__name__, str(folder))
        self.producer = Actor("producer", command, self._environment, folder)

    def _node(self, name: str, argv: Sequence[str]) -> Actor:
        environment = {**self._environment, f"{PREFIX}TEMP_DIR": str(self.folder / name)}
        return Actor(name, (*argv, "--name", name, "--log-level", "info"), environment, self.folder)

    def start_nodes(self) -> None:
        """Start the nodes and wait until all their workers have registered. Raises RuntimeUnavailable."""
        for node in self.nodes:
            node.start()
        wanted = {f"{pool}@{node.name}" for node in self.nodes for pool in (LIGHT, "default")}
        deadline = time.monotonic() + UP_S
        while not wanted <= {node["name"] for node in self.store.registry.nodes()}:
            for node in self.nodes:
                self.must_live(node)
            if time.monotonic() > deadline:
                said = "\n".join(node.tail() for node in self.nodes)
                raise RuntimeUnavailable(f"the nodes of the stage do not come up within {UP_S:g} s:\n{said}")
            time.sleep(LOOK_S)

    def must_live(self, actor: Actor) -> None:
        """Raise RuntimeUnavailable if *actor*, which nobody has killed, has ended."""
        if not actor.alive:
            code = actor.process.returncode if actor.process else None
            raise RuntimeUnavailable(f"{actor.name} of the stage ended by itself with code {code}:\n{actor.tail()}")

    def counts(self) -> tuple[int, int] | None:
        """How many jobs there are and how many of them live; None if the server does not answer."""
        if not self.server.answers:
            return None
        try:
            keys, client = self.store.keys, self.store.client
            return int(client.zcard(keys.jobs)), int(client.scard(keys.live))
        except AWAY:
            return None

    def end(self) -> None:
        """Kill the nodes and the producer, with all that runs beneath them."""
        for actor in (self.producer, *self.nodes):
            if actor.alive:
                below = process_tree.beneath(actor.pid)
                actor.kill()
                for child in below:
                    process_tree.kill(child.pid)
        self.store.client.close()


@contextmanager
def raised(node_argv: Sequence[str]) -> Iterator[Stage]:
    """A stage whose nodes run. It is gone with the block, with all its processes and its folder."""
    with ExitStack() as left:  # undone from the last to the first
        folder = Path(tempfile.mkdtemp(prefix="mn-chaos-"))
        left.callback(shutil.rmtree, folder, ignore_errors=True)
        environment = _environment(folder)
        left.callback(process_tree.kill_all_with, f"TMPDIR={environment['TMPDIR']}")
        server = Server(folder, environment)
        left.callback(server.kill)
        server.start()
        stage = Stage(folder, server, environment, node_argv)
        left.callback(stage.end)
        stage.start_nodes()
        yield stage


def _environment(folder: Path) -> dict[str, str]:
    """The environment of everything on the stage: ours, without any setting of the user's."""
    temp = folder / "tmp"
    temp.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    path = os.pathsep.join(filter(None, (SOURCE, os.environ.get("PYTHONPATH"))))
    return {**clean, "PYTHONPATH": path, "TMPDIR": str(temp), f"{PREFIX}HOME": str(folder)}


def _settings(url: str, folder: Path) -> Settings:
    defaults = {name: field.get_default() for name, field in Settings.model_fields.items()}
    chosen = {
        "redis_url": url,
        "redis_namespace": folder.name,
        "temp_dir": folder / "tmp",
        "claim_lease_ms": LEASE_MS,
        "executor_max_concurrency": SLOTS,
    }
    return Settings.load(**{**defaults, **chosen})


def _variables(settings: Settings) -> dict[str, str]:
    names = ("redis_url", "redis_namespace", "claim_lease_ms", "executor_max_concurrency")
    return {f"{PREFIX}{name.upper()}": str(getattr(settings, name)) for name in names}
