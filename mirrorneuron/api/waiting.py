"""Waiting for the end of a job: one read, then a push; a slow re-read is the net, because a push is only a hint."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from mirrorneuron.errors import WaitTimeout
from mirrorneuron.job import TERMINAL, JobMap, JobStatus
from mirrorneuron.limits import MOST
from mirrorneuron.store.connection import AWAY, AWAY_S, RETRY_S
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import result_channel

Timeout: TypeAlias = float | timedelta | None  #: milliseconds, or a timedelta; None waits for ever

REREAD_S: Final = 5.0
PATIENT_S: Final = 10.0  # that a read may take where the server stands still: two tries of 5 s


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time; None stands for never."""

    at: float | None  #: time.monotonic() seconds

    @classmethod
    def after(cls, timeout: Timeout) -> Deadline:
        """The deadline *timeout* (milliseconds or timedelta) from now. Raises TypeError or ValueError for nonsense."""
        if timeout is None:
            return cls(None)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float | timedelta):
            raise TypeError(f"timeout must be milliseconds, a timedelta or None, not {timeout!r}")
        if isinstance(timeout, int):  # a float cannot hold every int
            timeout = min(max(timeout, -1), MOST)
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout / 1000
        if math.isnan(seconds) or seconds < 0:
            raise ValueError(f"timeout must not be negative, and is {timeout!r}")
        return cls(time.monotonic() + seconds)

    def left(self, most_s: float) -> float:
        """Seconds left, *most_s* at most, never negative."""
        return most_s if self.at is None else max(0.0, min(most_s, self.at - time.monotonic()))

    @property
    def over(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at


def read_ended(store: Store, job_id: str) -> JobMap | None:
    """The job map of a terminal job, None for a live one. Raises JobNotFound."""
    job = store.known_job(job_id)
    return job if JobStatus(job["status"]) in TERMINAL else None


def until_ended(store: Store, job_id: str, deadline: Deadline, *, fresh: bool = False) -> JobMap:
    """The final job map of *job_id*; of a *fresh* one it is known that it has hardly begun.

    Raises JobNotFound, WaitTimeout, or redis errors after AWAY_S of silence.
    """
    away_since: float | None = None
    answered = fresh
    while True:
        try:
            if not fresh and (job := read_ended(_in_time(store, deadline) if answered else store, job_id)):
                return job
            answered, fresh, away_since = True, False, None
            return _pushed(store, job_id, deadline)
        except AWAY:
            now = time.monotonic()
            away_since = away_since or now
            if not answered or now - away_since > AWAY_S:  # a store that has never answered is not waited for
                raise
            time.sleep(deadline.left(RETRY_S))
            if deadline.over:
                raise WaitTimeout(f"job {job_id!r} has not ended, and the job store is away", job_id) from None


def _pushed(store: Store, job_id: str, deadline: Deadline) -> JobMap:
    with store.subscriptions.to(result_channel(job_id)) as wait_for_message:
        while True:
            # The read comes after the server's confirmation: an end between the two would be missed otherwise.
            wait_for_message(deadline.left(REREAD_S))
            if job := read_ended(_in_time(store, deadline), job_id):
                return job
            if deadline.over:
                raise WaitTimeout(f"job {job_id!r} has not ended in time; it goes on", job_id)


def _in_time(store: Store, deadline: Deadline) -> Store:
    """The store as it is to be asked: without patience where an answer might be waited for beyond the deadline."""
    return store if deadline.left(PATIENT_S) == PATIENT_S else store.fail_fast
