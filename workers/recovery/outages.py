"""When the store did not answer, and when its clock was set back, as one process sees it."""

from __future__ import annotations

from typing import Final

STEP_S: Final = 1.0  # by which the server's clock and the elapsed time may differ between two readings


class Outages:
    """Compares readings of the server's clock with the time that has passed here. *at* is a monotonic time in seconds.

    No claim can be renewed during an outage, so expired leases do not mean dead workers after it. The last renewals may
    be older than the outage; therefore an outage much shorter than a lease counts as well: more than *silence_s*
    between two answers, or by the server's time between the end of one tick and the next reading. A clock that was set
    forward ends leases early, like an outage. The death of the worker that swept before is no outage. A process that
    has just started also compares the last sweep of any worker, because the whole fleet may have been down: more than
    *fleet_s* is an outage.
    """

    def __init__(self, silence_s: float, fleet_s: float) -> None:
        self.set_back = False  #: the server's clock was set back, and this process has not swept since
        self.failed = False  #: a command failed, or its answer came late, since the last reading
        self._silence_s = silence_s
        self._fleet_s = fleet_s
        self._answered: float | None = None  #: when the last answer came
        self._ahead_s: float | None = None  #: the server's clock minus the monotonic clock at the last reading

    def tick_begins(self, at: float) -> None:
        """The first command of a tick is sent."""
        if self._answered is None:
            self._answered = at

    def answered(self, at: float) -> None:
        """An answer has come."""
        self.failed = self.failed or (self._answered is not None and at - self._answered > self._silence_s)
        self._answered = at

    def reading(self, now_ms: int, swept_ms: int | None, at: float) -> bool:
        """Take a reading of the server's clock, the first answer of a tick. Return True if it ends an outage.

        *swept_ms* is the time of the last sweep by any worker.
        """
        before = self._answered if self._answered is not None else at
        self.answered(at)
        now_s = now_ms / 1000
        if self._ahead_s is not None:
            gap_s, limit_s = now_s - (before + self._ahead_s), self._silence_s
        else:
            gap_s, limit_s = (0.0 if swept_ms is None else now_s - swept_ms / 1000), self._fleet_s
        self.set_back = self.set_back or gap_s < -STEP_S
        self._ahead_s = now_s - at
        failed, self.failed = self.failed, False
        return failed or gap_s > limit_s
