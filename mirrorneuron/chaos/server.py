"""The private server of the stage: can be killed, frozen, and restarted on the same port.

It restarts with the same data, or with those of an earlier time. It can be made to refuse writes, and its clock be set.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from mirrorneuron.chaos import process_tree
from mirrorneuron.chaos.clock import Clock
from mirrorneuron.embedded.launcher import CONFIG, binary, comes_up, connect, free_port
from mirrorneuron.embedded.state_file import State, write_private
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.processes import identity

TRIES: Final = 5
REFUSALS: Final = ("maxmemory", "min-replicas-to-write")  #: settings with which the server refuses writes; 0 ends it
REFUSED: Final = ("OOM", "NOREPLICAS")  #: how these refusals begin


class Server:
    """A Valkey server with its data in *folder*. On Linux it dies with this process."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.clock = Clock(folder)
        self._folder = folder
        self._data = folder / "data"
        self._environment = {**environment, **self.clock.environment}
        self._refused: int | None = None  #: writes that were refused before it was made to refuse them
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
    def takes_writes(self) -> bool:
        return self.answers and self._refused is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Start the server, on its previous port if it had one, and wait until its data is loaded.

        Raises RuntimeUnavailable if it ends `TRIES` times instead.
        """
        assert self._process is None, "the server runs already"
        self._data.mkdir(mode=0o700, exist_ok=True)
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
            self._process, self._frozen, self._refused = None, False, None

    def freeze(self) -> None:
        """Send SIGSTOP: the server keeps its connections and does not answer."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Send SIGCONT. No effect if the server is not frozen."""
        if self._frozen:
            os.kill(self.pid, signal.SIGCONT)
            self._frozen = False

    def remember(self) -> Path:
        """Copy the data as they are now, and return the folder of the copy. No write is only half in it."""
        past = self._folder / "past"
        process_tree.stop(self.pid)
        try:
            shutil.copytree(self._data, past, ignore=shutil.ignore_patterns("temp-*"))  # of a rewrite that goes on
        finally:
            process_tree.resume(self.pid)
        return past

    def go_back(self, past: Path) -> None:
        """Exchange the data of the killed server for *past*, which is used up."""
        assert self._process is None, "the server runs"
        shutil.rmtree(self._data)
        past.rename(self._data)

    def refuse_writes(self, setting: str) -> None:
        """Refuse writes from now on, by one of `REFUSALS`. A restart ends it too."""
        self._refused = self._count_refused()
        self._set(setting, 1)

    def take_writes(self) -> int:
        """Take writes again. Returns how many were refused since; 0 if the server has restarted meanwhile."""
        if self._refused is None:
            return 0
        for setting in REFUSALS:
            self._set(setting, 0)
        refused, self._refused = self._count_refused() - self._refused, None
        return refused

    def _set(self, setting: str, value: int) -> None:
        with closing(connect(self._state)) as client:
            client.config_set(setting, value)

    def _count_refused(self) -> int:
        with closing(connect(self._state)) as client:
            found = client.info("errorstats")
        return sum(found.get(f"errorstat_{word}", {}).get("count", 0) for word in REFUSED)

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
