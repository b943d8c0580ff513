"""Forks of a worker's main process wait until none of its threads is in the middle of anything.

A forked process has one thread, the one that forked: a lock that another held, of an import or of kombu's pools, is
held in it for ever. Of 3,000 processes that were forked beside publishing threads 8 never published anything, each for
the import of a module that one of the threads had begun. Such a process would keep its claim and its slot for ever.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE_S: Final = 10.0  # of a fork with a thread that waits for a server; after that the risk is the smaller evil

log = logging.getLogger(__name__)


class ForkGuard:
    """Holds off `os.fork` while threads work. One that waits goes before work that has not begun."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._begin()
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._working = 0  #: threads
        self.waiting = False  #: a fork, for the threads that work

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """No fork within the block, which must not fork itself. Waits for one that is under way."""
        with self._changed:
            self._changed.wait_for(lambda: not self.waiting)
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def give_way(self) -> None:
        """Let a fork that waits happen now: for work within `held_off` that takes long."""
        if self.waiting:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self.waiting)
                self._working += 1

    def _before(self) -> None:
        self._changed.acquire()  # and keep it, so that nothing begins until the fork is done
        self.waiting = True
        if not self._changed.wait_for(lambda: not self._working, self.patience_s):
            log.warning("forking a process while %s threads are working", self._working)

    def _after(self) -> None:
        self.waiting = False
        self._changed.notify_all()
        self._changed.release()


FORKS: Final = ForkGuard()
