"""Run a command on a pseudo-terminal."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])")
COLOURS = re.compile(r"\x1b\[([0-9;]*;)?(3[0-8]|4[0-8]|9[0-7]|10[0-7])(;[0-9;]*)?m")
CTRL_C = b"\x03"


class Terminal:
    """Runs one command with stdin, stdout and stderr on a new pseudo-terminal."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], *, rows: int = 50, columns: int = 120) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            argv,
            env={**env, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.raw = ""  #: all output so far, with escape sequences

    @property
    def text(self) -> str:
        """All output so far, without escape sequences."""
        return ESCAPES.sub("", self.raw).replace("\r", "")

    def read_until(self, words: str | re.Pattern[str], timeout: float = 60.0) -> None:
        """Read until *words* are shown. Fail the test if the command ends or *timeout* seconds pass before that."""
        deadline = time.monotonic() + timeout
        sought = re.compile(re.escape(words)) if isinstance(words, str) else words
        while not sought.search(self.text):
            assert time.monotonic() < deadline, f"never shown: {words!r}\n{self.text}"
            assert self._read(1.0) is not False, f"ended without showing {words!r}\n{self.text}"

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self, timeout: float = 60.0) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + timeout
        while self._read(1.0) is not False:
            assert time.monotonic() < deadline, f"still running:\n{self.text}"
        return self.process.wait(timeout)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._master)  # hangs up
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _read(self, wait_s: float) -> bool | None:
        """Read the available output. Returns None if there is none within *wait_s*, False at the end of the output."""
        if not select.select([self._master], [], [], wait_s)[0]:
            return None
        try:
            chunk = os.read(self._master, 65_536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        self.raw += chunk.decode(errors="replace")
        return bool(chunk)
