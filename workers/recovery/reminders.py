"""When agents that stay ready are announced again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from mirrorneuron.store.look_schedule import FIRST_LOOK_MS

FIRST_WAIT_S: Final = FIRST_LOOK_MS / 1_000  # before unclaimed agents are announced again; doubles each time
LONGEST_WAIT_S: Final = 300.0

Key = tuple[str, str]  #: job id and pool
Ready = tuple[str, int]  #: an agent, and since when it could be claimed (server time, ms)


@dataclass(slots=True)
class _Watched:
    oldest: Ready
    since: float  #: since when `oldest` waits or was seen as the oldest, or when its pool was announced last
    wait_s: float
    pool: str  #: of the task that announces it; "" if unknown


@dataclass(slots=True)
class _Job:
    looked_at: float = 0.0
    pools: dict[str, _Watched] = field(default_factory=dict)


class Reminders:
    """Remembers for each job and pool which agent has been ready for longest. Times are monotonic, in seconds.

    A long queue is not a loss: the wait doubles with each announcement that was made for the same agent. Agents are
    claimed in the order in which they became ready, so an announcement that was lost is noticed by its agent becoming
    the oldest and staying it, whatever happens to the other agents of the job.
    """

    def __init__(self, first_wait_s: float = FIRST_WAIT_S, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._first_s = first_wait_s
        self._longest_s = longest_wait_s
        self._jobs: dict[str, _Job] = {}  #: the one that was looked at longest ago first
        self._waiting: Counter[str] = Counter()  #: jobs by the pool of the task that announces their agents

    def is_due(self, key: Key, oldest: Ready, waited_s: float, now: float) -> bool:
        """Return True if the agents of *key* have to be announced again. *oldest* has been ready for *waited_s*."""
        job_id, pool = key
        pools = self._jobs.setdefault(job_id, _Job(now)).pools
        found = pools.get(pool)
        if found is None:
            # If the server's clock was set back, an agent may be ready only from a time that is still to come: it waits
            # from now on, and not until then.
            found = pools[pool] = _Watched(oldest, now - max(0.0, waited_s), self._first_s, pool)
            self._waiting[pool] += 1
        elif found.oldest != oldest:  # workers claim agents of this pool
            found.oldest, found.since, found.wait_s = oldest, now, self._first_s
        return now - found.since >= found.wait_s

    def announced(self, key: Key, now: float) -> None:
        """The agents of *key* were announced again."""
        found = self._jobs[key[0]].pools[key[1]]
        found.since, found.wait_s = now, min(2 * found.wait_s, self._longest_s)

    def next_s(self, job_id: str, now: float) -> float | None:
        """Return in how many seconds agents of the job are due next; None if none of them waits.

        Agents that are due already were not announced, because the queue is long: they are due again after the first
        wait.
        """
        found = self._jobs.get(job_id)
        if found is None or not found.pools:
            return None
        left = (watched.since + watched.wait_s - now for watched in found.pools.values())
        return min(seconds if seconds > 0 else self._first_s for seconds in left)

    def looked_at(self, job_id: str, pools: Collection[str], now: float) -> None:
        """Agents of *pools* were found waiting in the job. Forget its others."""
        found = self._jobs.pop(job_id, None)
        if found is None:
            return
        if not pools:
            self._forget(found)
            return
        self._jobs[job_id] = found
        found.looked_at = now
        for pool in found.pools.keys() - set(pools):
            self._waiting[found.pools.pop(pool).pool] -= 1

    def announced_in(self, key: Key, pool: str) -> None:
        """The agents of *key* are announced by a task for *pool*."""
        found = self._jobs[key[0]].pools[key[1]]
        self._waiting[found.pool] -= 1
        self._waiting[pool] += 1
        found.pool = pool

    def forget(self, before: float) -> None:
        """Forget the jobs that were not looked at since *before*: they have ended."""
        while self._jobs and (first := next(iter(self._jobs.items())))[1].looked_at < before:
            self._forget(self._jobs.pop(first[0]))

    def waiting(self, pool: str) -> int:
        """Return the number of jobs in which agents wait for a task of *pool*."""
        return self._waiting[pool]

    def knows(self, job_id: str) -> bool:
        """True if agents of the job wait."""
        return job_id in self._jobs

    def _forget(self, job: _Job) -> None:
        for found in job.pools.values():
            self._waiting[found.pool] -= 1
