"""A worker process whose task stands still ends itself: its claims lapse then, and others go on.

Code of the bundle may take as long as it likes. What the worker does around it (claim, commit, tell others) is a matter
of seconds while the store answers, and of minutes while it does not. If it is neither, the process waits for something
that never comes, and its keeper would renew its claims for ever.
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

INTERVAL_S: Final = 5.0  # between two looks
PATIENCE: Final = 12  # looks in a row at which a task was at the same step, and the store answered
FAREWELL_S: Final = 5.0  # for the log: it may be what the process waits for
EXIT_CODE: Final = os.EX_SOFTWARE

log = logging.getLogger(__name__)


class TaskWatchdog:
    """Looks at the tasks of this process, in a thread that starts with the first. *answers*: does the store?"""

    def __init__(self, answers: Callable[[], bool]) -> None:
        self._answers = answers
        self._number = itertools.count()
        self._steps: dict[int, int] = {}  #: thread of a task -> number of its step, while that is one of our own
        self._looks: dict[tuple[int, int], int] = {}  #: the same -> looks since the one that found it
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """A task begins, in this thread."""
        self._steps[threading.get_ident()] = next(self._number)
        if self._thread is None:
            self._thread = started("standstill", self._watch)

    def over(self) -> None:
        """The task of this thread is over."""
        self._steps.pop(threading.get_ident(), None)

    def next_step(self) -> None:
        """The task of this thread gets on."""
        if threading.get_ident() in self._steps:
            self._steps[threading.get_ident()] = next(self._number)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Within the block the task waits for code of its bundle."""
        step = self._steps.pop(threading.get_ident(), None)
        try:
            yield
        finally:
            if step is not None:
                self._steps[threading.get_ident()] = next(self._number)

    def look(self) -> int | None:
        """Look once; the thread of a task that stands still, if there is one."""
        looks = {step: self._looks.get(step, -1) + 1 for step in list(self._steps.items())}
        self._looks = looks if not any(looks.values()) or self._answers() else {}
        return next((thread for (thread, _), count in self._looks.items() if count >= PATIENCE), None)

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL_S):
            if (thread := self.look()) is not None:
                _end(thread)


def _end(thread: int) -> None:
    frame = sys._current_frames().get(thread)
    if frame is None:  # it has ended meanwhile
        return
    faulthandler.dump_traceback_later(FAREWELL_S, exit=True, file=sys.__stderr__ or sys.stderr)
    stack = "".join(traceback.format_stack(frame))
    log.critical("a task has stood still for %g s: this process ends\n%s", PATIENCE * INTERVAL_S, stack)
    os._exit(EXIT_CODE)
