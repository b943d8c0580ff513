"""The fork guard: a worker's main process forks only while none of its threads is working.

A forked process has one thread, the one that forked. A lock that another thread held (of an import, of kombu's pools)
is never released in it. Of 3,000 processes forked while threads published, 8 never published anything: each waited for
the import of a module that a thread had begun. Such a process would keep its claim and its slot for ever.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE_S: Final = 10.0  # a fork waits this long for the threads; after this, forking anyway is the lesser risk

log = logging.getLogger(__name__)


class ForkGuard:
    """Delays `os.fork` while threads work. A waiting fork has priority over work that has not begun."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._begin()
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._working = 0  #: threads
        self.waiting = False  #: True while a fork waits for the working threads

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Delay forks until the block ends; the block must not fork itself. Waits for a fork in progress."""
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
        """Let a waiting fork happen now. For long work within `held_off`."""
        if self.waiting:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self.waiting)
                self._working += 1

    def _before(self) -> None:
        self._changed.acquire()  # held until the fork is done, so that no work begins
        self.waiting = True
        if not self._changed.wait_for(lambda: not self._working, self.patience_s):
            log.warning("forking a process while %s threads are working", self._working)

    def _after(self) -> None:
        self.waiting = False
        self._changed.notify_all()
        self._changed.release()


FORKS: Final = ForkGuard()
