"""Wait for the end of a job: one read, then a push. A push may get lost, so the record is read again every 5 s."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from mirrorneuron.errors import WaitTimeout
from mirrorneuron.job import TERMINAL, JobMap, JobStatus
from mirrorneuron.limits import MOST
from mirrorneuron.store.connection import MAX_OUTAGE_S, RETRY_S, UNREACHABLE
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import result_channel

Timeout: TypeAlias = float | timedelta | None  #: milliseconds, or a timedelta; None waits without a limit

REREAD_S: Final = 5.0
PATIENT_S: Final = 10.0  # how long a read of a hanging server may take: two tries of 5 s


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time; None means never."""

    at: float | None  #: time.monotonic() seconds

    @classmethod
    def after(cls, timeout: Timeout) -> Deadline:
        """The deadline *timeout* (milliseconds or timedelta) from now. Raises TypeError or ValueError."""
        if timeout is None:
            return cls(None)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float | timedelta):
            raise TypeError(f"timeout must be milliseconds, a timedelta or None, not {timeout!r}")
        if isinstance(timeout, int):  # a float cannot hold every int
            timeout = min(max(timeout, -1), MOST)
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout / 1000
        if math.isnan(seconds) or seconds < 0:
            raise ValueError(f"timeout must not be negative, not {timeout!r}")
        return cls(time.monotonic() + seconds)

    def left(self, most_s: float) -> float:
        """Seconds left, between 0 and *most_s*."""
        return most_s if self.at is None else max(0.0, min(most_s, self.at - time.monotonic()))

    @property
    def over(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at


def read_ended(store: Store, job_id: str) -> JobMap | None:
    """The job map of an ended job, None for a live one. Raises JobNotFound."""
    job = store.known_job(job_id)
    return job if JobStatus(job["status"]) in TERMINAL else None


def until_ended(store: Store, job_id: str, deadline: Deadline, *, fresh: bool = False) -> JobMap:
    """Wait for the final job map of *job_id*; a *fresh* job was just submitted, so its first read is skipped.

    Raises JobNotFound, WaitTimeout, or redis errors when the store was unreachable for MAX_OUTAGE_S.
    """
    away_since: float | None = None
    answered = fresh
    while True:
        try:
            if not fresh and (job := read_ended(_in_time(store, deadline) if answered else store, job_id)):
                return job
            answered, fresh, away_since = True, False, None
            return _pushed(store, job_id, deadline)
        except UNREACHABLE:
            now = time.monotonic()
            away_since = away_since or now
            if not answered or now - away_since > MAX_OUTAGE_S:  # fail at once if it has never answered
                raise
            time.sleep(deadline.left(RETRY_S))
            if deadline.over:
                raise WaitTimeout(f"job {job_id!r} has not ended, and the job store does not answer", job_id) from None


def _pushed(store: Store, job_id: str, deadline: Deadline) -> JobMap:
    with store.subscriptions.to(result_channel(job_id)) as wait_for_message:
        while True:
            # Read only after the server has confirmed the subscription: otherwise an end in between would be missed.
            wait_for_message(deadline.left(REREAD_S))
            if job := read_ended(_in_time(store, deadline), job_id):
                return job
            if deadline.over:
                raise WaitTimeout(f"job {job_id!r} has not ended in time; it continues", job_id)


def _in_time(store: Store, deadline: Deadline) -> Store:
    """The store, or `fail_fast` when its retries could exceed the deadline."""
    return store if deadline.left(PATIENT_S) == PATIENT_S else store.fail_fast
