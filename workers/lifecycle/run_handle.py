"""The handle by which another thread ends a run."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

GRACE_S: Final = 0.5  # between TERM and KILL


def capped_s(timeout_s: float | None, most_s: int) -> float | None:
    """The time-out of a run on a node that allows *most_s*; 0 is no limit."""
    return min(timeout_s or most_s, most_s) if most_s else timeout_s


def limit_note(timeout_s: float | None, most_s: int) -> str:
    """What the error of a run that timed out adds if the node's limit ended it."""
    ended = most_s and capped_s(timeout_s, most_s) != timeout_s
    return f" (this node allows MIRROR_NEURON_MAX_RUN_SECONDS={most_s})" if ended else ""


@dataclass(slots=True)
class Alarm:
    """Calls *ring* once if a run still goes on at *at_s* (monotonic), in the thread that waits for the run."""

    at_s: float
    ring: Callable[[], None]


class RunHandle:
    """Ends a run from another thread. One handle serves the runs of one claim, one after the other.

    With an *alarm*, whoever waits for the run calls `look` not later than `alarm_s` says.
    """

    def __init__(self, grace_s: float = GRACE_S, alarm: Alarm | None = None) -> None:
        self.grace_s = grace_s
        self._alarm = alarm
        self.reason: str | None = None  #: why the run must end: set by the first `kill`, never changed
        self.given_back = False  #: the run did not fail: another worker runs the agent again
        # Re-entrant, because a signal handler may call `kill` while a method below holds the lock.
        self._lock = threading.RLock()
        self._wake_fd: int | None = None

    def kill(self, reason: str) -> None:
        """End the run: TERM to its process group, KILL after the grace. Returns at once.

        Called before the command has started, it prevents the start; called after its end, it does nothing. The first
        reason is kept.
        """
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            if self._wake_fd is not None:
                os.write(self._wake_fd, b"\0")

    def give_back(self, reason: str) -> None:
        """End the run as `kill` does, but do not count it as an attempt: the claim is given back."""
        with self._lock:
            if self.reason is None:
                self.given_back = True
                self.kill(reason)

    @property
    def alarm_s(self) -> float:
        """Seconds until the alarm; infinite if there is none, or none any more."""
        return self._alarm.at_s - time.monotonic() if self._alarm else math.inf

    def look(self) -> str | None:
        """Ring the alarm if it is due. Returns why the run must end, or None."""
        if self._alarm and self.alarm_s <= 0:
            alarm, self._alarm = self._alarm, None
            alarm.ring()
        return self.reason

    @contextmanager
    def wake_fd(self) -> Iterator[int]:
        """Yield a descriptor that becomes readable when `kill` is called.

        The thread that waits for the descriptor sends the signals: one thread starts, signals and reaps the command,
        so no signal can reach a reused process id.
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
