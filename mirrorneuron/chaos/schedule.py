"""When each kill happens: a pure function of seed, jobs and minutes, so that any schedule can be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

EVERY_S: Final = 2.5  #: between two strikes on average, unless the time is too short for one of each kind
SUBMITTED: Final = 0.85  #: the fraction of the time after which the last job is submitted
BURST_S: Final = 1.0  #: between two bursts of submissions on average
CHOICES: Final = 1_000  #: `Strike.which` is below this


class Kind(StrEnum):
    """What a strike does. It sends SIGKILL to its target unless noted."""

    NODE = "node"  #: the supervisor of a node, whose workers die with it
    WORKER = "worker"  #: one of its Celery workers
    CHILD = "child"  #: one process of a worker's pool
    COMMAND = "command"  #: the process group of a running command
    MODULE = "module"  #: the child process that runs a module agent
    CLIENT = "client"  #: a producer while it submits
    SERVER = "server"  #: the server; later restarted with the same data
    FREEZE = "freeze"  #: the server is stopped (SIGSTOP) and resumed after a pause
    HANG = "hang"  #: a worker or a process of its pool is stopped (SIGSTOP) for longer than a lease, then resumed
    HALF_OPEN = "half_open"  #: the connections of a node to the server stay open, but nothing passes them any more
    CUT = "cut"  #: the connections of a node to the server are closed in place of the next reply of each
    SLOW = "slow"  #: the connections of a node to the server are slow for a while
    FEED = "feed"  #: an announcement is lost while its job gets messages from outside all the time
    TRAVEL = "travel"  #: the server; restarted with its data of some seconds ago, as if it had lost its last writes
    CLOCK = "clock"  #: the clock of the server is set forward or back by minutes
    REFUSE = "refuse"  #: for a while, the server refuses writes, or a worker cannot open files


WEIGHTS: Final = {
    Kind.NODE: 2,
    Kind.WORKER: 4,
    Kind.CHILD: 5,
    Kind.COMMAND: 6,
    Kind.MODULE: 4,
    Kind.CLIENT: 4,
    Kind.SERVER: 2,
    Kind.FREEZE: 2,
    Kind.HANG: 4,
    Kind.HALF_OPEN: 2,
    Kind.CUT: 3,
    Kind.SLOW: 2,
    Kind.FEED: 2,
    Kind.TRAVEL: 2,
    Kind.CLOCK: 2,
    Kind.REFUSE: 3,
}


@dataclass(frozen=True, slots=True)
class Strike:
    """One planned blow."""

    at_s: float  #: since the start of the test
    kind: Kind
    which: int  #: 0..999; chooses one of the possible victims, and how long it lasts

    def __str__(self) -> str:
        return f"{self.at_s:.1f} s {self.kind} {self.which}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a crash test does and when."""

    seed: int
    jobs: int
    minutes: float
    strikes: tuple[Strike, ...]  #: by time
    due_s: tuple[float, ...]  #: when each job is submitted, by time; jobs of one burst have the same time
    left_out: tuple[Kind, ...] = ()  #: kinds that are impossible on this machine

    def without(self, kind: Kind) -> Schedule:
        """Return this schedule without the strikes of *kind*. The others stay as they are."""
        strikes = tuple(strike for strike in self.strikes if strike.kind is not kind)
        return replace(self, strikes=strikes, left_out=(*self.left_out, kind))


def plan(seed: int, jobs: int, minutes: float, weights: Mapping[Kind, int] = WEIGHTS) -> Schedule:
    """Return the schedule of *seed*. Every kind in *weights* occurs at least once, however short the time."""
    # `random()` is the only method that gives the same numbers in every version of Python.
    draw = random.Random(f"{seed} {jobs} {minutes:g}").random  # noqa: S311 - not a secret
    seconds = 60 * minutes
    bursts = max(1, min(jobs, round(SUBMITTED * seconds / BURST_S)))
    at = [round((number + draw()) * SUBMITTED * seconds / bursts, 3) for number in range(bursts)]
    count = max(len(weights), round(seconds / EVERY_S))
    kinds = _kinds(draw, weights)
    # A client can be killed only while jobs are left to submit, a command only while jobs run, and only jobs that are
    # submitted after the copy of the data are lost with them. A lost announcement is noticed after some seconds only.
    last_s = dict.fromkeys((Kind.CLIENT, Kind.COMMAND, Kind.TRAVEL), at[-1]) | {Kind.FEED: seconds / 2}
    strikes = []
    for number in range(count):
        kind, share = next(kinds), (number + draw()) / count
        at_s = share * last_s.get(kind, seconds)
        strikes.append(Strike(round(at_s, 3), kind, int(draw() * CHOICES)))
    strikes.sort(key=lambda strike: strike.at_s)
    return Schedule(seed, jobs, minutes, tuple(strikes), tuple(at[number * bursts // jobs] for number in range(jobs)))


def _kinds(draw: Callable[[], float], weights: Mapping[Kind, int]) -> Iterator[Kind]:
    """Yield every kind once, then rounds in which each kind occurs as often as its weight; shuffled in each round."""
    deck = list(weights)
    while True:
        while deck:
            yield deck.pop(int(draw() * len(deck)))
        deck = [kind for kind, weight in weights.items() for _ in range(weight)]
