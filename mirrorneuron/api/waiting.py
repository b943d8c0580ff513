"""Wait for the end of a job: one read, then a push. A push may get lost, so the record is read again every 5 s."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, TypeAlias

from mirrorneuron.errors import WaitTimeout
from mirrorneuron.job import JobMap
from mirrorneuron.limits import MOST
from mirrorneuron.store.connection import MAX_OUTAGE_S, RETRY_S, UNREACHABLE
from mirrorneuron.store.direct_line import NotDirect
from mirrorneuron.store.job_store import Store

Timeout: TypeAlias = float | timedelta | None  #: milliseconds, or a timedelta; None waits without a limit

REREAD_S: Final = 5.0
LAST_READ_S: Final = 1.0  # how long a read may take that begins at the deadline


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

    def check(self, job_id: str) -> None:
        """Raise WaitTimeout for *job_id* if the deadline is over."""
        if self.over:
            raise WaitTimeout(f"job {job_id!r} has not ended in time; it continues", job_id)


def until_ended(store: Store, job_id: str, deadline: Deadline, *, fresh: bool = False) -> JobMap:
    """Wait for the final job map of *job_id*; a *fresh* job was just submitted, so its first read is skipped.

    Raises JobNotFound, WaitTimeout, or redis errors when the store was unreachable for MAX_OUTAGE_S.
    """
    outage = _Outage(job_id, deadline, answered=fresh)
    while True:
        try:
            if not fresh and (job := _read(store, job_id, deadline)):
                return job
            fresh = False
            outage.over()
            with suppress(NotDirect):
                job = store.reads.awaited_job(job_id, lambda: deadline.left(REREAD_S), _read_s(store, deadline))
                if job:
                    return job
                deadline.check(job_id)
            woken = threading.Event()
            with store.ends.listening(job_id, woken.set):
                # Read after the server has confirmed the subscription: otherwise an end in between would be missed.
                while True:
                    woken.wait(deadline.left(REREAD_S))
                    woken.clear()
                    if job := _read(store, job_id, deadline):
                        return job
                    deadline.check(job_id)
        except UNREACHABLE as error:
            outage.goes_on(error)
            time.sleep(deadline.left(RETRY_S))
            outage.check_deadline()


async def until_ended_async(store: Store, job_id: str, deadline: Deadline) -> JobMap:
    """`until_ended` for asyncio. Holds no thread while it waits."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    outage = _Outage(job_id, deadline, answered=False)

    def wake() -> None:
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(woken.set)

    while True:
        try:
            if job := await _read_async(store, job_id, deadline):
                return job
            outage.over()
            with store.ends.listening(job_id, wake):
                while True:
                    with suppress(TimeoutError):  # a push may get lost: read again
                        async with asyncio.timeout(deadline.left(REREAD_S)):
                            await woken.wait()
                    woken.clear()
                    if job := await _read_async(store, job_id, deadline):
                        return job
                    deadline.check(job_id)
        except UNREACHABLE as error:
            outage.goes_on(error)
            await asyncio.sleep(deadline.left(RETRY_S))
            outage.check_deadline()


def _read(store: Store, job_id: str, deadline: Deadline) -> JobMap | None:
    """The job map of an ended job, None for a live one."""
    return store.reads.ended_job(job_id, _read_s(store, deadline))


async def _read_async(store: Store, job_id: str, deadline: Deadline) -> JobMap | None:
    seconds = _read_s(store, deadline)
    return await store.calls.run_async(partial(store.reads.ended_job, job_id, seconds), seconds)


def _read_s(store: Store, deadline: Deadline) -> float:
    """How long a read may take, in seconds."""
    seconds = store.settings.client_timeout_s
    return min(seconds, deadline.left(seconds) + LAST_READ_S)


@dataclass(slots=True)
class _Outage:
    """How long the store has not answered a wait."""

    job_id: str
    deadline: Deadline
    answered: bool  #: the store has answered this wait before
    since: float | None = None

    def over(self) -> None:
        self.answered, self.since = True, None

    def goes_on(self, error: BaseException) -> None:
        """Raise *error* after MAX_OUTAGE_S, and at once if the store has never answered."""
        now = time.monotonic()
        self.since = self.since or now
        if not self.answered or now - self.since > MAX_OUTAGE_S:
            raise error

    def check_deadline(self) -> None:
        if self.deadline.over:
            said = f"job {self.job_id!r} has not ended, and the job store does not answer"
            raise WaitTimeout(said, self.job_id) from None
