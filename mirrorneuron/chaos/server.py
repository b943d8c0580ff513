"""The private server of the stage: can be killed, frozen, and restarted on the same port with the same data."""

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
    """A Valkey server with its data in *folder*. On Linux it dies with this process."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._state = State(port=0, password=secrets.token_urlsafe(24), started_at="")
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def url(self) -> str:
        """The URL of the server; valid after `start`."""
        return self._state.url

    def url_at(self, port: int) -> str:
        """The URL of the server through a proxy at *port*."""
        return self._state.model_copy(update={"port": port}).url

    @property
    def port(self) -> int:
        """The port of the server; valid after `start`."""
        return self._state.port

    @property
    def answers(self) -> bool:
        """False while the server is killed or frozen."""
        return self._process is not None and not self._frozen

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Start the server, on its previous port if it had one, and wait until its data is loaded.

        Raises RuntimeUnavailable if it ends `TRIES` times instead.
        """
        assert self._process is None, "the server runs already"
        (self._folder / "data").mkdir(mode=0o700, exist_ok=True)
        for _ in range(TRIES):  # another program may take the free port before the server binds it
            if self._spawn(self._state.port or free_port()):
                return
        log = self._folder / "server.log"
        raise RuntimeUnavailable(
            f"the server of the crash test did not start; {log} says:\n{log.read_text(errors='replace')}"
        )

    def kill(self) -> None:
        """Send SIGKILL, as if the machine had lost power. No effect if the server does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process, self._frozen = None, False

    def freeze(self) -> None:
        """Send SIGSTOP: the server keeps its connections and does not answer."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Send SIGCONT. No effect if the server is not frozen."""
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
