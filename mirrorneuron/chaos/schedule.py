"""When what is killed: a pure function of the seed and of how much there is to do, so that any run can be had again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

EVERY_S: Final = 2.5  #: between two strikes on average, where there is time enough
SUBMITTED: Final = 0.85  #: of the time: by then the last job is submitted
BURST_S: Final = 1.0  #: between two bursts of submissions on average
CHOICES: Final = 1_000  #: how many choice numbers there are


class Kind(StrEnum):
    """What a strike hits. All of them are SIGKILL, but for `freeze`."""

    NODE = "node"  #: a supervisor, and all that dies with it
    WORKER = "worker"  #: one of its Celery workers
    CHILD = "child"  #: one process of a worker's pool
    COMMAND = "command"  #: the process group of a running command
    MODULE = "module"  #: the child process that runs a module agent
    CLIENT = "client"  #: a producer while it submits
    SERVER = "server"  #: killed, and started again on what it has written
    FREEZE = "freeze"  #: the server is stopped in its tracks for a while


WEIGHTS: Final = {
    Kind.NODE: 2,
    Kind.WORKER: 4,
    Kind.CHILD: 5,
    Kind.COMMAND: 6,
    Kind.MODULE: 4,
    Kind.CLIENT: 4,
    Kind.SERVER: 2,
    Kind.FREEZE: 2,
}


@dataclass(frozen=True, slots=True)
class Strike:
    at_s: float  #: since the beginning
    kind: Kind
    which: int  #: 0..999; chooses among the victims there are, and how long what was killed stays away

    def __str__(self) -> str:
        return f"{self.at_s:.1f} s {self.kind} {self.which}"


@dataclass(frozen=True, slots=True)
class Schedule:
    seed: int
    jobs: int
    minutes: float
    strikes: tuple[Strike, ...]  #: by time
    due_s: tuple[float, ...]  #: when each job is submitted, by time; several at once


def plan(seed: int, jobs: int, minutes: float, weights: Mapping[Kind, int] = WEIGHTS) -> Schedule:
    """The schedule of *seed*. Every kind of *weights* comes at least once, however short the time."""
    # `random()` alone of all methods gives the same numbers in every version of Python.
    draw = random.Random(f"{seed} {jobs} {minutes:g}").random  # noqa: S311 - no secret
    seconds = 60 * minutes
    bursts = max(1, min(jobs, round(SUBMITTED * seconds / BURST_S)))
    at = [round((number + draw()) * SUBMITTED * seconds / bursts, 3) for number in range(bursts)]
    count = max(len(weights), round(seconds / EVERY_S))
    kinds = _kinds(draw, weights)
    strikes = []
    for number in range(count):
        kind, share = next(kinds), (number + draw()) / count
        # A client can be hit only as long as there is something left to submit.
        at_s = share * (at[-1] if kind is Kind.CLIENT else seconds)
        strikes.append(Strike(round(at_s, 3), kind, int(draw() * CHOICES)))
    strikes.sort(key=lambda strike: strike.at_s)
    return Schedule(seed, jobs, minutes, tuple(strikes), tuple(at[number * bursts // jobs] for number in range(jobs)))


def _kinds(draw: Callable[[], float], weights: Mapping[Kind, int]) -> Iterator[Kind]:
    """Every kind once, then again and again each as often as it weighs; each round in an order of its own."""
    deck = list(weights)
    while True:
        while deck:
            yield deck.pop(int(draw() * len(deck)))
        deck = [kind for kind, weight in weights.items() for _ in range(weight)]
