"""When agents that stay ready are announced again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

FIRST_WAIT_S: Final = 5.0  # before agents that no worker has claimed are announced again; doubles each time
LONGEST_WAIT_S: Final = 300.0

Key = tuple[str, str]  #: job id and pool
Ready = tuple[str, int]  #: an agent, and when it became ready (server time, ms)


@dataclass(slots=True)
class _Watched:
    oldest: Ready
    since: float  #: when `oldest` became ready or the oldest, or when its pool was announced last
    wait_s: float


class Reminders:
    """Remembers for each job and pool which agent has been ready for longest. Times are monotonic, in seconds.

    A long queue is not a loss: the wait doubles with each announcement that was made for the same agent. Agents are
    claimed in the order in which they became ready, so an announcement that was lost is noticed by its agent becoming
    the oldest and staying it, whatever happens to the other agents of the job.
    """

    def __init__(self, first_wait_s: float = FIRST_WAIT_S, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._first_s = first_wait_s
        self._longest_s = longest_wait_s
        self._watched: dict[Key, _Watched] = {}
        self._first_sweep = True

    def is_due(self, key: Key, oldest: Ready, waited_s: float, now: float) -> bool:
        """Return True if the agents of *key* have to be announced again. *oldest* has been ready for *waited_s*."""
        found = self._watched.get(key)
        if found is None:
            # The first sweep does not know what was announced before it. Later, the agents are ready since the last
            # sweep, or were in a job that was pending or paused. If the server's clock was set back, an agent or a job
            # may be ready only from a time that is still to come: it waits from now on, and not until then.
            since = now - max(0.0, waited_s) if self._first_sweep else now
            found = self._watched[key] = _Watched(oldest, since, self._first_s)
        elif found.oldest != oldest:  # workers claim agents of this pool
            found.oldest, found.since, found.wait_s = oldest, now, self._first_s
        return now - found.since >= found.wait_s

    def announced(self, key: Key, now: float) -> None:
        """The agents of *key* were announced again."""
        found = self._watched[key]
        found.since, found.wait_s = now, min(2 * found.wait_s, self._longest_s)

    def sweep_ended(self, keys: Collection[Key]) -> None:
        """Forget all keys but *keys*, those of the agents that the sweep found waiting."""
        self._first_sweep = False
        for key in self._watched.keys() - set(keys):
            del self._watched[key]
