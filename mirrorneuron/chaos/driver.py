"""The crash test itself: strike when the schedule says so, mend what the stage needs, look at what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from mirrorneuron.chaos import graphs, invariants, producer, victims
from mirrorneuron.chaos.graphs import Graph
from mirrorneuron.chaos.invariants import Flaw, Violation
from mirrorneuron.chaos.producer import Order
from mirrorneuron.chaos.schedule import Kind, Schedule, Strike
from mirrorneuron.chaos.stage import Stage
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.store.connection import reaching

TICK_S: Final = 0.01
FAIL_FAST_S: Final = 0.001  #: instead, while a producer is to be hit: it takes some milliseconds over a job
LOOK_S: Final = 0.5  #: between two looks at how many jobs have ended
PATIENCE_S: Final = 3.0  #: a strike that finds nobody waits this long for somebody
AWAY_S: Final = (0.2, 1.0)  #: a killed node or server stays away: at least, and how much longer at most
FROZEN_S: Final = (0.3, 2.2)  #: the same for a frozen server
STUCK_S: Final = 90.0  #: in peace, jobs of which none ends for this long are stuck; longer than any wait of the nodes
FAILURES: Final = 5  #: of a producer that nobody killed


@dataclass
class Progress:
    """How far the test is. One writes, whoever shows it reads."""

    schedule: Schedule
    submitted: int = 0
    ended: int = 0
    kills: Counter[Kind] = field(default_factory=Counter)
    missed: int = 0  #: strikes that found nobody to hit
    peace: bool = False  #: nothing is killed any more
    last: str = ""
    began_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s


class Audience(Protocol):
    """Who is told. Called from the test's only thread."""

    def note(self, text: str, /) -> None:
        """Something has happened."""
        ...

    def look(self, progress: Progress) -> None:
        """Called all the time."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    schedule: Schedule
    seconds: float  #: from the first job to the end of the last
    kills: Counter[Kind]
    missed: int
    reruns: int
    violations: tuple[Violation, ...]

    def count(self, flaw: Flaw) -> int:
        return sum(violation.count for violation in self.violations if violation.flaw is flaw)


class Driver:
    """One crash test on *stage*. Single-threaded, like the stage."""

    def __init__(self, stage: Stage, schedule: Schedule, audience: Audience, *, name: str = "chaos") -> None:
        self._stage = stage
        self._schedule = schedule
        self._audience = audience
        self._name = name  #: of this test among others on the same stage
        self._jobs: dict[str, Graph] = {}
        self._progress = Progress(schedule)
        self._strikes = list(schedule.strikes)
        self._repairs: list[tuple[float, Callable[[], None]]] = []  #: (when, what)
        self._graphs = graphs.all_graphs()
        self._submitted_bytes = 0  #: of the producers' list, when it was last read
        self._failures = 0
        self._looked_s = 0.0

    def run(self) -> Report:
        """Run the whole test. Blocks; raises RuntimeUnavailable when the stage itself fails."""
        with reaching(self._stage.settings.redis_url):
            self._order()
            while self._strikes or self._progress.elapsed_s < 60 * self._schedule.minutes:
                self._tick()
            self._make_peace()
            self._wait_for_the_end()
            return self._report()

    def _order(self) -> None:
        """Write the bundles, and what the producers are to submit when; start the first of them."""
        stage, schedule = self._stage, self._schedule
        folders = [graph.write(stage.folder / "bundles") for graph in self._graphs]
        orders = []
        self._progress.began_s, began = time.monotonic(), time.time()
        for number, due_s in enumerate(schedule.due_s):
            graph, folder = self._graphs[number % len(folders)], folders[number % len(folders)]
            job_id = f"{self._name}-{graph.name}-{number}"
            self._jobs[job_id] = graph
            orders.append(Order(job_id=job_id, bundle=folder, due_at_s=began + due_s, feed=graph.feed))
        producer.write_orders(stage.folder, orders)
        self._start_producer()

    def _tick(self) -> None:
        """One turn: repairs that are due, strikes that are due, a look at the whole."""
        self._mend()
        self._strike()
        self._look()
        hasty = any(strike.kind is Kind.CLIENT for strike in self._strikes if strike.at_s <= self._progress.elapsed_s)
        time.sleep(FAIL_FAST_S if hasty else TICK_S)

    def _mend(self) -> None:
        now = self._progress.elapsed_s
        due = [repair for at_s, repair in self._repairs if at_s <= now]
        self._repairs = [row for row in self._repairs if row[0] > now]
        for repair in due:
            repair()
        for node in self._stage.nodes:
            if node.process is not None and not self._repairs:
                self._stage.must_live(node)
        self._mend_producer()

    def _mend_producer(self) -> None:
        """Start another producer unless one lives, or all is submitted."""
        actor, size = self._stage.producer, (self._stage.folder / "submitted").stat().st_size
        if size != self._submitted_bytes:
            self._submitted_bytes = size
            self._progress.submitted = len(producer.submitted(self._stage.folder))
        if actor.alive or self._progress.submitted == len(self._jobs):
            return
        assert actor.process is not None
        self._failures += actor.process.returncode > 0
        if self._failures >= FAILURES:
            raise RuntimeUnavailable(f"producers of the stage fail:\n{actor.tail()}")
        self._start_producer()

    def _start_producer(self) -> None:
        producer.trying(self._stage.folder).unlink(missing_ok=True)
        self._stage.producer.start()

    def _strike(self) -> None:
        """Carry out what is due. A strike that finds nobody waits a little; the others do not wait for it."""
        now = self._progress.elapsed_s
        for strike in [strike for strike in self._strikes if strike.at_s <= now]:
            said = self._hit(strike)
            if said:
                self._progress.kills[strike.kind] += 1
                self._tell(said)
            elif now < strike.at_s + PATIENCE_S:
                continue
            else:
                self._progress.missed += 1
            self._strikes.remove(strike)

    def _hit(self, strike: Strike) -> str:
        """Carry out one strike and say what it hit; "" if there is nobody to hit."""
        match strike.kind:
            case Kind.SERVER | Kind.FREEZE:
                return self._hit_server(strike)
            case Kind.CLIENT:
                return self._hit_client()
            case _:
                found = victims.on_nodes(strike.kind, self._stage)
                if not found:
                    return ""
                victim = found[strike.which % len(found)]
                victim.kill()
                if strike.kind is Kind.NODE:
                    self._later(AWAY_S, strike, self._revive_nodes)
                return f"killed {victim.name}"

    def _hit_server(self, strike: Strike) -> str:
        server = self._stage.server
        if not server.answers:
            return ""
        if strike.kind is Kind.FREEZE:
            server.freeze()
            away_s = self._later(FROZEN_S, strike, server.thaw)
            return f"froze the server for {away_s:.1f} s"
        server.kill()
        away_s = self._later(AWAY_S, strike, server.start)
        return f"killed the server for {away_s:.1f} s"

    def _hit_client(self) -> str:
        """Kill the producer if it is about to submit something."""
        if not producer.trying(self._stage.folder).exists() or not self._stage.producer.alive:
            return ""
        self._stage.producer.kill()
        return "killed the producer while it submitted"

    def _revive_nodes(self) -> None:
        for node in self._stage.nodes:
            if not node.alive:
                node.start()

    def _later(self, pause_s: tuple[float, float], strike: Strike, repair: Callable[[], None]) -> float:
        """Have *repair* done after the strike's pause, and return how long that is."""
        seconds = pause_s[0] + pause_s[1] * strike.which / 1000
        self._repairs.append((self._progress.elapsed_s + seconds, repair))
        return seconds

    def _look(self) -> None:
        if time.monotonic() - self._looked_s >= LOOK_S and (counts := self._stage.counts()):
            self._looked_s = time.monotonic()
            self._progress.ended = counts[0] - counts[1]
        self._audience.look(self._progress)

    def _tell(self, text: str) -> None:
        self._progress.last = text
        self._audience.note(f"{self._progress.elapsed_s:6.1f} s  {text}")

    def _make_peace(self) -> None:
        """Kill nothing any more, mend everything, and let the producer finish."""
        self._progress.peace = True
        self._tell("peace: nothing is killed any more")
        while self._repairs or self._progress.submitted < len(self._jobs):
            self._tick()

    def _wait_for_the_end(self) -> None:
        """Wait until no job lives, or none has ended for so long that the others are stuck."""
        before, since = -1, time.monotonic()
        while (counts := self._stage.counts()) is None or counts[1] > 0:
            if counts is not None and counts[1] != before:
                before, since = counts[1], time.monotonic()
            if time.monotonic() - since > STUCK_S:
                self._tell(f"no job has ended for {STUCK_S:g} s")
                return
            self._tick()
        self._tell("all jobs have ended")
        self._looked_s = 0.0
        self._look()

    def _report(self) -> Report:
        progress, store = self._progress, self._stage.store
        seconds = progress.elapsed_s
        found = [v for job_id, graph in self._jobs.items() for v in invariants.of_job(store, job_id, graph.expected)]
        found += invariants.of_store(store)
        reruns = sum(invariants.reruns(store.events(job_id)) for job_id in self._jobs)
        return Report(self._schedule, seconds, progress.kills, progress.missed, reruns, tuple(found))
