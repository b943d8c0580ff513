"""The same work on MirrorNeuron, Celery, Huey and Dramatiq, two slots each, in turns."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pydantic_core import from_json, to_json
from redis import Redis

from benchmarks import harness, work
from benchmarks.ours import Ours
from benchmarks.row import Row, at_least, at_most
from benchmarks.side import CELERY, DRAMATIQ, HUEY, MODULES, OURS, SLOTS, Side, sides
from benchmarks.size import Size

FLOOR = "plain"
EQUAL = "equal inputs"
Measure = Callable[[Side], float]


def rows(size: Size) -> Iterator[Row]:
    with sides() as found:
        ours = found[OURS]
        assert isinstance(ours, Ours)
        compared = Comparison(found, ours, size)
        compared.warm_up()
        yield from compared.python()
        yield from compared.commands()
        yield from compared.terminal_wait()
        yield compared.inputs()
        yield from compared.routers()


class Comparison:
    """All sides, and the numbers of their jobs: no input is used twice."""

    def __init__(self, found: dict[str, Side], ours: Ours, size: Size) -> None:
        self._sides, self._ours, self._size = found, ours, size
        self._jobs = itertools.count(1)

    def warm_up(self) -> None:
        """Open connections, load scripts, and start the children of all slots."""
        for side in self._sides.values():
            self._burst(side.chain, 2 * SLOTS)
            self._burst(side.command, SLOTS)
        self._burst(self._ours.routers, SLOTS)

    def python(self) -> Iterator[Row]:
        size = self._size
        yield Row(
            "Python chain of 3, p50",
            "ms",
            self._turns(lambda side: 1000 * self._latency(side.chain)),
            (at_most(0.25, CELERY), at_most(1.0, HUEY), at_most(0.15, DRAMATIQ)),
        )
        yield Row(
            f"Python chain of 3, {size.burst} at once",
            "jobs/s",
            self._turns(lambda side: size.burst / self._burst(side.chain, size.burst)),
            (at_least(4, CELERY), at_least(1.0, HUEY), at_least(4, DRAMATIQ)),
        )
        yield Row(f"Python fan of {size.fan:,}", "s", self._turns(lambda side: self._fan(side, size.fan)))
        yield Row(
            f"Python fan of {size.wide:,}",
            "s",
            self._turns(lambda side: self._fan(side, size.wide)),
            (at_most(0.06, CELERY), at_most(0.3, HUEY), at_most(0.08, DRAMATIQ)),
        )

    def commands(self) -> Iterator[Row]:
        count = self._size.commands
        yield Row(
            f"{count} commands `python3 -c`",
            "s",
            self._turns(lambda side: self._burst(side.command, count), lambda: _plain_commands(count)),
            (at_most(1.0, CELERY), at_most(1.05, HUEY), at_most(1.0, DRAMATIQ), at_most(1.05, FLOOR)),
            note=f"{FLOOR}: {SLOTS} threads that call `subprocess.run`, without any server",
        )

    def terminal_wait(self) -> Iterator[Row]:
        count = self._size.waits
        ended = {id(side): side.ended(next(self._jobs)) for side in self._sides.values()}
        record = self._plain_wait()
        yield Row(
            "wait for a job that has ended",
            "us",
            self._turns(
                lambda side: 1e6 * harness.in_a_row(count, ended[id(side)]),
                lambda: 1e6 * harness.in_a_row(count, record),
            ),
            (at_most(0.2, CELERY), at_most(1.1, HUEY), at_most(1.1, DRAMATIQ), at_most(1.1, FLOOR)),
            note=f"{FLOOR}: one GET of the same record with redis-py, and its parse",
        )

    def inputs(self) -> Row:
        """The same bundle, with inputs that differ from job to job and with equal ones."""
        chain = self._ours.chain
        same = next(self._jobs)
        differ = partial(self._turn, lambda: 1000 * self._latency(chain))
        equal = partial(self._turn, lambda: 1000 * harness.in_a_row(self._size.serial, lambda: chain(same)()))
        taken = harness.alternate(self._size.rounds, differ, equal)
        figures = dict(zip((OURS, EQUAL), map(harness.median, taken), strict=True))
        return Row("Python chain of 3, inputs differ, p50", "ms", figures, (at_most(1.1, EQUAL),))

    def routers(self) -> Iterator[Row]:
        """What no peer has: light agents, which run no code of a user."""
        ours, burst, rounds = self._ours, self._size.burst, self._size.rounds
        name = "chain of 3 light agents (2 routers, 1 aggregator)"
        note = "no code of a user runs: no peer has the like, and the figure says nothing about users' Python"
        latency = harness.alternate(rounds, lambda: 1000 * self._latency(ours.routers))
        yield Row(f"{name}, p50", "ms", {OURS: harness.median(latency[0])}, note=note)
        rate = harness.alternate(rounds, lambda: burst / self._burst(ours.routers, burst))
        yield Row(f"{name}, {burst} at once", "jobs/s", {OURS: harness.median(rate[0])}, note=note)

    def _turns(self, measure: Measure, plain: Callable[[], float] | None = None) -> dict[str, float | None]:
        """The median of each side's turns, and that of *plain*; None for a side that is not installed."""
        turns = [partial(self._turn, measure, side) for side in self._sides.values()]
        taken = harness.alternate(self._size.rounds, *turns, *([partial(self._turn, plain)] if plain else []))
        names = [*self._sides, *([FLOOR] if plain else [])]
        medians = dict(zip(names, map(harness.median, taken), strict=True))
        return {name: medians.get(name) for name in (*MODULES, *names[len(self._sides) :])}

    def _turn(self, measure: Callable[..., float], *side: Side) -> float:
        """One measurement, after the workers of all sides have finished what earlier turns left to them."""
        harness.calm([found.pid for found in self._sides.values()])
        return measure(*side)

    def _latency(self, submit: Callable[[int], Callable[[], object]]) -> float:
        """Seconds of one job, submitted and awaited; the median of several in a row."""
        return harness.in_a_row(self._size.serial, lambda: submit(next(self._jobs))())

    def _burst(self, submit: Callable[[int], Callable[[], object]], count: int) -> float:
        """Seconds of *count* jobs that are submitted first and awaited then."""

        def all_of_them() -> None:
            for wait in [submit(next(self._jobs)) for _ in range(count)]:
                wait()

        return harness.seconds(all_of_them)

    def _fan(self, side: Side, width: int) -> float:
        job = next(self._jobs)
        return harness.seconds(lambda: side.fan(job, width))

    def _plain_wait(self) -> Callable[[], object]:
        client = self._ours.client
        server = Redis.from_url(client.settings.redis_url)
        record = to_json(client.inspect_job(self._ours.ended_id(next(self._jobs))))
        server.set("plain", record, ex=3_600)
        return lambda: from_json(server.get("plain"))


def _plain_commands(count: int) -> float:
    def run(_: int) -> None:
        done = subprocess.run(work.COMMAND, env=harness.environment(), capture_output=True, text=True, check=True)
        work.check(done.stdout, work.PRINTED)

    with ThreadPoolExecutor(SLOTS) as threads:
        return harness.seconds(lambda: list(threads.map(run, range(count))))
