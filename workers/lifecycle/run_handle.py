"""The handle by which a run is ended from another thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

GRACE_S: Final = 0.5  # between asking a command to end (TERM) and ending it (KILL)


class RunHandle:
    """Ends a run from another thread. One handle serves one run, or the attempts at it one after the other."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.grace_s = grace_s
        self.reason: str | None = None  #: set by the first `kill`, for good
        self.given_back = False  #: the run is not to blame: somebody else shall do it again
        # Re-entrant, because `kill` may be called by a signal handler on top of the methods below.
        self._lock = threading.RLock()
        self._wake_fd: int | None = None

    def kill(self, reason: str) -> None:
        """End the run: TERM to its process group, KILL after the grace. Returns at once.

        Before the command exists, it is not started any more; after its end nothing happens. The first reason stays.
        """
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            if self._wake_fd is not None:
                os.write(self._wake_fd, b"\0")

    def give_back(self, reason: str) -> None:
        """End the run as `kill` does, without counting it: its agent is given back as it was claimed."""
        with self._lock:
            if self.reason is None:
                self.given_back = True
                self.kill(reason)

    @contextmanager
    def wake_fd(self) -> Iterator[int]:
        """A descriptor that becomes readable when `kill` is called. The signals are sent by whoever waits for it:
        one thread alone starts, signals and reaps, so no signal can hit a process id that was given away again.
        """
        readable, writable = os.pipe()
        with self._lock:
            self._wake_fd = writable
        try:
            yield readable
        finally:
            with self._lock:
                self._wake_fd = None
            os.close(writable)
            os.close(readable)
