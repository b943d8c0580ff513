"""The stage: a private folder, server, nodes and producer, all removed when the block ends, also after an error."""

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
from mirrorneuron.chaos.network import Network
from mirrorneuron.chaos.server import Server
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.pools import LIGHT
from mirrorneuron.processes.groups import kill_group
from mirrorneuron.settings import PREFIX, Settings
from mirrorneuron.store.connection import UNREACHABLE, connect
from mirrorneuron.store.job_store import Store

NODES: Final = ("one", "two")
SLOTS: Final = 2  #: for each node
LEASE_MS: Final = 1_500
UP_S: Final = 60.0  #: how long the nodes may take to register
LOOK_S: Final = 0.05
ANSWER_S: Final = 20.0  #: socket timeout; a frozen server is not queried
TAIL_BYTES: Final = 4_000
SOURCE: Final = str(Path(mirrorneuron.__file__).parents[1])  #: on the import path, so that a checkout works too


@dataclass
class Actor:
    """A process of the stage that may be killed and restarted."""

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
        """Kill the process, and its descendants where they do not die with it (not on Linux)."""
        below = process_tree.beneath(self.pid) if sys.platform != "linux" else []
        process_tree.kill(self.pid)
        for child in below:
            kill_group(child.group) if child.leads else process_tree.kill(child.pid)
        assert self.process is not None
        self.process.wait()

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace") if self.log.exists() else ""


class Stage:
    """Processes and a folder for one crash test. Single-threaded: children die with the thread that starts them.

    *node_argv* is the command of a node (`mn worker`), without `--name`.
    """

    def __init__(self, folder: Path, server: Server, environment: Mapping[str, str], node_argv: Sequence[str]) -> None:
        self.folder = folder
        self.server = server
        self.settings = _settings(server.url, folder)
        self.store = Store(self.settings, client=connect(server.url, timeout_s=ANSWER_S))
        self._environment = {**environment, **_variables(self.settings)}
        self.networks: list[Network] = []  #: of the nodes, in their order; all other processes connect directly
        self.nodes = [self._node(name, node_argv) for name in NODES]
        command = (sys.executable, "-P", "-m", producer.__name__, str(folder))
        self.producer = Actor("producer", command, self._environment, folder)

    def _node(self, name: str, argv: Sequence[str]) -> Actor:
        network = Network(self.server.port, self._environment)
        self.networks.append(network)
        own = {"TEMP_DIR": str(self.folder / name), "REDIS_URL": self.server.url_at(network.port)}
        environment = {**self._environment, **{PREFIX + key: value for key, value in own.items()}}
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
                raise RuntimeUnavailable(f"the nodes of the crash test did not register within {UP_S:g} s:\n{said}")
            time.sleep(LOOK_S)

    def must_live(self, actor: Actor) -> None:
        """Raise RuntimeUnavailable if *actor* has ended without being killed by the test."""
        if not actor.alive:
            code = actor.process.returncode if actor.process else None
            raise RuntimeUnavailable(
                f"node {actor.name!r} of the crash test exited with code {code}; end of its log:\n{actor.tail()}"
            )

    def counts(self) -> tuple[int, int] | None:
        """Return the number of jobs and the number of live ones. None if the server is unreachable."""
        if not self.server.answers:
            return None
        try:
            return self.store.index.count(), self.store.index.live_count()
        except UNREACHABLE:
            return None

    def end(self) -> None:
        """Kill the nodes and the producer with their descendants."""
        for actor in (self.producer, *self.nodes):
            if actor.alive:
                below = process_tree.beneath(actor.pid)
                actor.kill()
                for child in below:
                    process_tree.kill(child.pid)
        for network in self.networks:
            network.close()
        self.store.close()


@contextmanager
def raised(node_argv: Sequence[str]) -> Iterator[Stage]:
    """Yield a stage whose nodes run. At the end of the block, its processes are killed and its folder is removed."""
    with ExitStack() as left:  # the callbacks run in reverse order
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
    """Return the environment of every process of the stage: that of this process, without the user's settings."""
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
