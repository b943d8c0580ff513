"""Fixtures of the command line tests: the real `mn`, and bundles that end in a chosen way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import RealNode
from tests.support.waiting import wait_until
from tests.support.warm import WarmMn

ROOT = Path(__file__).parents[2]
MN = str(Path(sys.executable).parent / "mn")
RESEARCH = str(ROOT / "examples" / "research_flow")
OF_TERMINALS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")

Mn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def env(node: RealNode) -> dict[str, str]:
    """The environment of commands that use the session's node."""
    return {name: value for name, value in node.env.items() if name not in OF_TERMINALS}


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmMn]:
    """The process that most commands of these tests are forked from."""
    made = WarmMn()
    yield made
    made.close()


@pytest.fixture
def mn(env: dict[str, str], warm: WarmMn) -> Mn:
    """Runs `mn` until it exits, by default with the session's node and an empty stdin."""

    def run(*args: str, env: Mapping[str, str] = env, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        return warm.run(args, env, stdin)

    return run


@pytest.fixture
def cold_mn(env: dict[str, str]) -> Mn:
    """Runs `mn` until it exits, in a new interpreter, which reads its environment at start as in a shell."""

    def run(*args: str, env: Mapping[str, str] = env) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MN, *args], env=env, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )

    return run


class Started:
    """An `mn` (or *program*) in the background; terminated at the end of the block."""

    def __init__(self, *args: str, env: Mapping[str, str], cwd: Path = ROOT, program: str = MN) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [program, *args],
            env=env,
            cwd=cwd,
            stdout=pipe,
            stderr=pipe,
            text=True,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the test suite may run under nohup
        )

    def line_of_stderr(self, words: str) -> str:
        """Read stderr until a line holds *words*, and return it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return line
        raise AssertionError(f"exited without printing {words!r}")

    def line(self) -> str:
        """The next line of stdout."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"exited:\n{self.process.communicate()[1]}"
        return line

    def document(self) -> Any:
        """The next JSON document of stdout."""
        text = self.line()
        while True:
            try:
                return json.loads(text)
            except ValueError:
                text += self.line()

    def ctrl_c(self) -> tuple[int, str, str]:
        """Send SIGINT; return the exit code and the rest of stdout and stderr."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=100)
        return self.process.returncode, out, err

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate()


class Bundle:
    """A bundle of one node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def __str__(self) -> str:
        return str(self.folder)

    def write(self, manifest: Mapping[str, Any]) -> Bundle:
        whole = {"manifest_version": "1.0", "graph_id": self.folder.name, "entrypoints": ["only"], **manifest}
        (self.folder / "manifest.json").write_text(json.dumps(whole))
        return self

    def executor(self, *command: str, **config: Any) -> Bundle:
        """One executor that runs *command*."""
        only = {"node_id": "only", "agent_type": "executor", "config": {"command": list(command), **config}}
        return self.write({"nodes": [only], "edges": []})


@pytest.fixture
def endless(tmp_path: Path) -> str:
    """A bundle whose job waits for a second message that is never sent. It takes no slot."""
    only = {"node_id": "only", "agent_type": "aggregator", "config": {"complete_after": 2}}
    return str(Bundle(tmp_path / "endless").write({"nodes": [only], "edges": []}))


@pytest.fixture
def failing(tmp_path: Path) -> str:
    """A bundle whose job fails."""
    return str(Bundle(tmp_path / "failing").executor("sh", "-c", "echo broken >&2; exit 3"))


class Gate(Bundle):
    """A bundle whose only command runs until `open` is called."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file, self._begun = folder.parent / "open", folder.parent / "begun"
        script = f"touch '{self._begun}'; until [ -e '{self._file}' ]; do sleep 0.02; done"
        self.executor("sh", "-c", script, complete_job=True)

    def wait(self) -> None:
        """Wait until its command runs."""
        wait_until(self._begun.exists, timeout=60)

    def open(self) -> None:
        self._file.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    made.open()


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment with no server: an empty home of the embedded server."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_NEURON_")}
    return {**clean, "MIRROR_NEURON_HOME": str(tmp_path / "home")}


@pytest.fixture
def unreachable(env: dict[str, str], nobody: str) -> dict[str, str]:
    """An environment whose server is unreachable."""
    return {**env, "MIRROR_NEURON_REDIS_URL": f"redis://{nobody}/0"}


def last_line(text: str) -> str:
    return text.splitlines()[-1]
