"""Task watchdog: exit a pool process whose task is stuck, so that its claims expire and another worker takes over.

Code of the bundle may run for any length of time. The worker's own steps around it (claim, commit, announce) take
seconds while the store is available. A step that takes much longer although the store is available never ends, and
the process's lease keeper would renew its claims forever.
"""

from __future__ import annotations

import faulthandler
import itertools
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from workers.lifecycle.threads import started

INTERVAL_S: Final = 5.0  # between two checks
STUCK_CHECKS: Final = 12  # consecutive checks that found a task at the same step while the store was available
LOG_S: Final = 5.0  # for writing the log; the log itself may be what the process is blocked on
EXIT_CODE: Final = os.EX_SOFTWARE

log = logging.getLogger(__name__)


class TaskWatchdog:
    """Checks the tasks of this process, in a thread that starts with the first task.

    *store_available* tells if the store accepts writes.
    """

    def __init__(self, store_available: Callable[[], bool]) -> None:
        self._store_available = store_available
        self._number = itertools.count()
        self._steps: dict[int, int] = {}  #: thread -> number of its task's step; absent while bundle code runs
        self._checks: dict[tuple[int, int], int] = {}  #: (thread, step) -> checks that found it again
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Watch the task that this thread begins."""
        self._steps[threading.get_ident()] = next(self._number)
        if self._thread is None:
            self._thread = started("task watchdog", self._watch)

    def end(self) -> None:
        """Stop watching: the task of this thread has ended."""
        self._steps.pop(threading.get_ident(), None)

    def next_step(self) -> None:
        """Note that the task of this thread makes progress."""
        if threading.get_ident() in self._steps:
            self._steps[threading.get_ident()] = next(self._number)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Do not watch this thread's task within the block, which waits for code of the bundle."""
        step = self._steps.pop(threading.get_ident(), None)
        try:
            yield
        finally:
            if step is not None:
                self._steps[threading.get_ident()] = next(self._number)

    def check(self) -> int | None:
        """Check once. Returns the thread of a stuck task, or None."""
        checks = {step: self._checks.get(step, -1) + 1 for step in list(self._steps.items())}
        self._checks = checks if not any(checks.values()) or self._store_available() else {}
        return next((thread for (thread, _), count in self._checks.items() if count >= STUCK_CHECKS), None)

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL_S):
            if (thread := self.check()) is not None:
                _exit(thread)


def _exit(thread: int) -> None:
    """Log the stack of the stuck thread and exit the process."""
    frame = sys._current_frames().get(thread)
    if frame is None:  # the thread has ended since the check
        return
    faulthandler.dump_traceback_later(LOG_S, exit=True, file=sys.__stderr__ or sys.stderr)
    stack = "".join(traceback.format_stack(frame))
    log.critical("a task is stuck for %g s; the process exits\n%s", STUCK_CHECKS * INTERVAL_S, stack)
    os._exit(EXIT_CODE)
