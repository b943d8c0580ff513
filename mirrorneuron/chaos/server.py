"""The stage's own server: killed, frozen and started again on the same port, with all that it has written."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mirrorneuron.chaos import process_tree
from mirrorneuron.embedded.launcher import CONFIG, binary, comes_up, free_port
from mirrorneuron.embedded.state_file import State, write_private
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.processes import identity

TRIES: Final = 5


class Server:
    """A Valkey server that lives in *folder* and never outlives us (on Linux)."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._state = State(port=0, password=secrets.token_urlsafe(24), started_at="")
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def url(self) -> str:
        """Where it is; known once it was started."""
        return self._state.url

    @property
    def answers(self) -> bool:
        """Does it run, as far as we have not stopped it?"""
        return self._process is not None and not self._frozen

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it, on its last port if it has one, and wait until it has loaded its data."""
        assert self._process is None, "the server runs already"
        (self._folder / "data").mkdir(mode=0o700, exist_ok=True)
        for _ in range(TRIES):  # somebody may take a free port before the server does
            if self._spawn(self._state.port or free_port()):
                return
        log = self._folder / "server.log"
        raise RuntimeUnavailable(f"the server of the stage does not come up:\n{log.read_text(errors='replace')}")

    def kill(self) -> None:
        """End it as a power cut would. Nothing happens if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process, self._frozen = None, False

    def freeze(self) -> None:
        """Stop it in its tracks: it keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Let it go on. Nothing happens if it is not frozen."""
        if self._frozen:
            os.kill(self.pid, signal.SIGCONT)
            self._frozen = False

    def _spawn(self, port: int) -> bool:
        text = CONFIG.format(port=port, password=self._state.password).replace("everysec", "always")
        write_private(self._folder / "server.conf", text)
        log, command = self._folder / "server.log", [binary(), "server.conf"]
        self._process = process_tree.start(command, self._folder, self._environment, log)
        running = identity.find(self._process.pid)
        self._state = self._state.model_copy(update={"port": port, "server": running})
        if comes_up(self._state):
            return True
        self._process.wait()
        self._process = None
        return False
