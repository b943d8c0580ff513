"""Graceful shutdown of a worker: runs may finish within the grace, then their claims are given back.

Giving back does not wait for the lease to expire: the commit that releases a claim re-announces its agent to the
remaining nodes.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Final

REASON: Final = "the worker is stopping"


class SharedFlag:
    """A flag that is set once and shared with all processes forked after its creation.

    It is a pipe; setting writes a byte that is never read. Checking costs a microsecond, and a thread can wait for it.
    """

    def __init__(self) -> None:
        self._readable, self._writable = os.pipe()

    def set(self) -> None:
        """Set the flag. Idempotent; a signal handler may call it."""
        if not self.is_set():
            os.write(self._writable, b"\0")

    def is_set(self) -> bool:
        return self._poll(0)

    def wait(self) -> None:
        """Block until the flag is set."""
        self._poll(None)

    def _poll(self, timeout_ms: int | None) -> bool:
        poll = select.poll()  # one poll object serves one thread at a time
        poll.register(self._readable, select.POLLIN)
        return bool(poll.poll(timeout_ms))


class Stop:
    """The progress of a worker's shutdown, shared by all its processes."""

    def __init__(self) -> None:
        self.begun: Final = SharedFlag()  #: set: no more agents are claimed
        self.over: Final = SharedFlag()  #: set: the grace is over, claims are given back

    def allow(self, grace_s: float) -> None:
        """Set `over` *grace_s* after `begun`. Returns at once."""
        threading.Thread(target=self._count_down, args=(grace_s,), name="stop", daemon=True).start()

    def _count_down(self, grace_s: float) -> None:
        self.begun.wait()
        time.sleep(grace_s)
        self.over.set()


STOP: Final = Stop()  # created at import, so before the pool processes are forked
