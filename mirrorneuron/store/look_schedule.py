"""When the sweeper looks at each live job next.

Each live job has one moment in the index `due`. Inside a job things change only under a claim, whose lease has an end
that the last look has seen, so the sweeper itself knows the next moment. A call that changes a job from outside first
adds a mark for it to the same index. The sweeper reads the marks before it looks at jobs, and makes each marked job due
after that: the look comes after the change, whatever moment an earlier look has set meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from mirrorneuron.bundle.manifest import Policies
from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.keys import ASKED, Keys

FIRST_LOOK_MS: Final = 5_000  # from a submission to the first look, unless a time-out is shorter
MOST: Final = 100_000  # jobs that one sweep looks at

# ARGV: job, the moment that was read, the next moment, for each job. A moment that was changed meanwhile stays.
RESCHEDULE: Final = """
for i = 1, #ARGV, 3 do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i]) or '') == tonumber(ARGV[i + 1]) then
    redis.call('ZADD', KEYS[1], ARGV[i + 2], ARGV[i])
  end
end
"""


def claim_bound_ms(lease_ms: int) -> int:
    """Return the longest time between two looks at a job whose agents may be claimed.

    A worker that claims one just after a look and dies is noticed then before two leases are over.
    """
    return lease_ms * 3 // 2


def first_look_ms(policies: Policies, lease_ms: int) -> int:
    """Return when the sweeper first looks at a job with these *policies*, in ms after its submission."""
    limits = (policies.job_timeout_ms, policies.idle_timeout_ms)
    return min(FIRST_LOOK_MS, claim_bound_ms(lease_ms), *(limit for limit in limits if limit is not None))


class DueJob(NamedTuple):
    """A job at which the sweeper has to look."""

    job_id: str
    due_ms: int  #: the moment that is in the index


class Agenda(NamedTuple):
    """What one sweep has to do."""

    asked: list[str]  #: jobs with a mark: they are being changed from outside; to be made due after the looks
    due: list[DueJob]


class LookSchedule:
    """The moments of one namespace. All times are the server's, in ms."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def entry(self, job_id: str, at_ms: int) -> tuple[str | int, ...]:
        """Return the command that makes a live job due at *at_ms*, or earlier if it is due earlier."""
        return ("ZADD", self._keys.due, "LT", at_ms, job_id)

    def agenda(self, now_ms: int) -> Agenda:
        """Return what a sweep at *now_ms* has to do, the longest due first. One round trip."""
        rows = self._client.zrangebyscore(self._keys.due, "-inf", now_ms, start=0, num=MOST, withscores=True)
        asked = [_text(name)[len(ASKED) :] for name, _ in rows if _is_mark(name)]
        return Agenda(asked, _due_jobs(rows))

    def is_quiet(self, now_ms: int) -> bool:
        """True if no job is due at *now_ms*, nor being changed from outside. One command, and nothing is written."""
        first = self._client.zrange(self._keys.due, 0, 0, withscores=True)
        return all(due_ms > now_ms for _, due_ms in first)

    def missing(self) -> int:
        """Return how many live jobs have no moment, at least."""
        pipe = self._client.pipeline(transaction=False)
        pipe.scard(self._keys.live)
        pipe.zcard(self._keys.due)
        live, scheduled = pipe.execute()
        return max(0, int(live) - int(scheduled))

    def all_jobs(self) -> list[DueJob]:
        """Return all live jobs that have a moment."""
        return _due_jobs(self._client.zrange(self._keys.due, 0, -1, withscores=True))

    def adopt(self, at_ms: int) -> None:
        """Make all live jobs due at *at_ms* that have no moment, such as those of an earlier version."""
        names = list(self._client.smembers(self._keys.live))
        for name, due_ms in zip(names, self._client.zmscore(self._keys.due, names) if names else (), strict=True):
            if due_ms is None:
                self._client.execute_command(*self.entry(_text(name), at_ms))

    def take_over(self, asked: Sequence[str], at_ms: int) -> None:
        """Make the marked jobs due at *at_ms*, and remove their marks."""
        if not asked:
            return
        pipe = self._client.pipeline(transaction=False)
        pipe.zadd(self._keys.due, dict.fromkeys(asked, at_ms), lt=True)
        pipe.zrem(self._keys.due, *(ASKED + job_id for job_id in asked))
        pipe.execute()

    def set_next(self, looks: Iterable[tuple[DueJob, int]]) -> None:
        """Set the next moment of each job, unless its moment has changed since it was read."""
        rows = [part for job, next_ms in looks for part in (*job, next_ms)]
        if rows:
            self._client.eval(RESCHEDULE, 1, self._keys.due, *rows)


def _due_jobs(rows: Iterable[tuple[bytes, float]]) -> list[DueJob]:
    return [DueJob(_text(name), int(due_ms)) for name, due_ms in rows if not _is_mark(name)]


def _is_mark(name: bytes) -> bool:
    return name.startswith(ASKED.encode())


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
