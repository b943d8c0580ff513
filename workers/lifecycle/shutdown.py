"""The end of a worker that is asked to stop: what runs may finish for a while, then its claims are given back.

What was given back waits for no lease: the commit that frees it announces it to the nodes that stay.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import Final

REASON: Final = "the worker is stopping"


class SharedFlag:
    """A flag that is raised once, seen by this process and by all that are forked from it after it was made.

    It is a pipe with a byte that nobody reads: a look costs a microsecond, and a thread can wait for it.
    """

    def __init__(self) -> None:
        self._readable, self._writable = os.pipe()

    def set(self) -> None:
        """Raise the flag. May be called again, and by a signal handler."""
        if not self.is_set():
            os.write(self._writable, b"\0")

    def is_set(self) -> bool:
        return self._poll(0)

    def wait(self) -> None:
        """Block until the flag is up."""
        self._poll(None)

    def _poll(self, timeout_ms: int | None) -> bool:
        poll = select.poll()  # one poll object serves one thread at a time
        poll.register(self._readable, select.POLLIN)
        return bool(poll.poll(timeout_ms))


class Stop:
    """What all processes of a worker know of its end."""

    def __init__(self) -> None:
        self.begun: Final = SharedFlag()  #: no agent is claimed any more
        self.over: Final = SharedFlag()  #: the time to finish is over: claims are given back

    def allow(self, grace_s: float) -> None:
        """Have runs that go on *grace_s* after the beginning of the stop end. Returns at once."""
        threading.Thread(target=self._count_down, args=(grace_s,), name="stop", daemon=True).start()

    def _count_down(self, grace_s: float) -> None:
        self.begun.wait()
        time.sleep(grace_s)
        self.over.set()


STOP: Final = Stop()  # made when this is imported: before the pool's processes are forked
