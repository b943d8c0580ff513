"""The network between one node and the server: a proxy in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from mirrorneuron.chaos import proxy
from mirrorneuron.errors import RuntimeUnavailable


class Network:
    """Controls the proxy in front of *port*, which ends with this process. Single-threaded."""

    def __init__(self, port: int, environment: Mapping[str, str]) -> None:
        command = (sys.executable, "-P", "-m", proxy.__name__, str(port))
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C at the terminal does not reach it
        )
        self.is_slow = False
        self.port = self._answer()  #: of the proxy

    def make_dead(self) -> int:
        """Make the present connections half-open. Returns their number."""
        return self._ask("make_dead")

    def cut_replies(self) -> int:
        """Cut each present connection at its next reply. Returns how many are cut already, 0 if no reply comes."""
        return self._ask("cut_next_replies")

    def slow_down(self, delay_s: float) -> int:
        """Delay all that passes, in each direction; 0 ends it. Returns the number of present connections."""
        self.is_slow = delay_s > 0
        return self._ask(f"delay_s {delay_s}")

    def close(self) -> None:
        """End the proxy."""
        with self._process:
            self._process.kill()

    def _ask(self, command: str) -> int:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the proxy has ended; reading its answer says so
            self._process.stdin.write(f"{command}\n".encode())
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeUnavailable("the proxy of the crash test has ended by itself")
        return int(line)
