"""The crash test itself: kill on schedule, restart what was killed, and check the jobs at the end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Protocol

from mirrorneuron.chaos import graphs, invariants, producer
from mirrorneuron.chaos.blows import Blows
from mirrorneuron.chaos.graphs import Graph
from mirrorneuron.chaos.invariants import Flaw, Violation
from mirrorneuron.chaos.producer import Order
from mirrorneuron.chaos.repairs import Repairs
from mirrorneuron.chaos.schedule import Kind, Schedule
from mirrorneuron.chaos.stage import Stage
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.store.connection import reaching

TICK_S: Final = 0.01
FAST_TICK_S: Final = 0.001  #: instead, while a strike on the producer is due: a submission takes some milliseconds
LOOK_S: Final = 0.5  #: between two counts of the ended jobs
PATIENCE_S: Final = 3.0  #: how long a strike waits for a victim
WORK_S: Final = 10.0  #: the same while jobs are live, for a strike on what only runs for them: other blows delay it
AT_WORK: Final = (Kind.COMMAND, Kind.MODULE)
STUCK_S: Final = 90.0  #: after the last kill, jobs are stuck if none ends for this long; longer than any wait of a node
FAILURES: Final = 5  #: the test ends when producers have failed this often without being killed


@dataclass
class Progress:
    """How far the test is. Written by the driver, read by the audience."""

    schedule: Schedule
    submitted: int = 0
    ended: int = 0
    kills: Counter[Kind] = field(default_factory=Counter)
    missed: int = 0  #: strikes that found no victim
    peace: bool = False  #: True after the last kill
    last: str = ""  #: the last note
    jobs: int = 0  #: of the schedule and of strikes
    began_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s


class Audience(Protocol):
    """Shows the test to the user. Called from the test's only thread."""

    def note(self, text: str, /) -> None:
        """Called for each kill and each change of phase."""
        ...

    def look(self, progress: Progress) -> None:
        """Called at every tick."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    schedule: Schedule
    seconds: float  #: from the first job to the end of the last
    kills: Counter[Kind]
    missed: int
    reruns: int
    violations: tuple[Violation, ...]
    resubmitted: int = 0  #: jobs that were lost with the last writes of the server
    refused: Counter[str] = field(default_factory=Counter)  #: what was refused -> how often, as far as it is known

    def count(self, flaw: Flaw) -> int:
        return sum(violation.count for violation in self.violations if violation.flaw is flaw)


class Driver:
    """One crash test on *stage*. Single-threaded, like the stage."""

    def __init__(self, stage: Stage, schedule: Schedule, audience: Audience, *, name: str = "chaos") -> None:
        self._stage = stage
        self._schedule = schedule
        self._audience = audience
        self._name = name  #: prefix of the job ids; unique on the stage
        self._jobs: dict[str, Graph] = {}
        self._progress = Progress(schedule, jobs=schedule.jobs)
        self._strikes = list(schedule.strikes)
        self._repairs = Repairs()
        self._blows = Blows(stage, name, self._jobs, self._repairs)
        self._graphs = graphs.all_graphs()
        self._submitted_bytes = 0  #: size of the file of submitted ids when it was last read
        self._failures = 0
        self._looked_s = 0.0

    def run(self) -> Report:
        """Run the whole test. Blocks. Raises RuntimeUnavailable if a process of the stage fails by itself."""
        with reaching(self._stage.settings.redis_url):
            self._order()
            while self._strikes or self._progress.elapsed_s < 60 * self._schedule.minutes:
                self._tick()
            self._end_kills()
            self._wait_for_the_end()
            return self._report()

    def _order(self) -> None:
        """Write the bundles and the orders, and start the first producer."""
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
        """Carry out the repairs and strikes that are due, and show the progress."""
        self._mend()
        self._strike()
        self._blows.go_on()
        self._look()
        due = [strike for strike in self._strikes if strike.at_s <= self._progress.elapsed_s]
        client_due = any(strike.kind is Kind.CLIENT for strike in due)
        time.sleep(FAST_TICK_S if client_due else TICK_S)

    def _mend(self) -> None:
        for repair in self._repairs.take_due():
            said = repair()
            if isinstance(said, str):
                self._tell(said)
        for node in self._stage.nodes:
            if node.process is not None and not self._repairs:
                self._stage.must_live(node)
        self._mend_producer()

    def _mend_producer(self) -> None:
        """Start another producer if none runs and jobs are left to submit."""
        actor, size = self._stage.producer, (self._stage.folder / "submitted").stat().st_size
        if size != self._submitted_bytes:
            self._submitted_bytes = size
            self._progress.submitted = len(producer.submitted(self._stage.folder))
        if actor.alive or self._progress.submitted == len(self._jobs):
            return
        assert actor.process is not None
        self._failures += actor.process.returncode > 0
        if self._failures >= FAILURES:
            raise RuntimeUnavailable(f"the producer of the crash test failed {FAILURES} times:\n{actor.tail()}")
        self._start_producer()

    def _start_producer(self) -> None:
        producer.trying(self._stage.folder).unlink(missing_ok=True)
        self._stage.producer.start()

    def _strike(self) -> None:
        """Carry out the strikes that are due. A strike without a victim is tried again for some seconds."""
        now = self._progress.elapsed_s
        for strike in [strike for strike in self._strikes if strike.at_s <= now]:
            said = self._blows.hit(strike)
            if said:
                self._progress.kills[strike.kind] += 1
                self._progress.jobs = len(self._jobs) + len(self._blows.feeds)
                self._tell(said)
            elif now < strike.at_s + self._patience_s(strike.kind):
                continue
            else:
                self._progress.missed += 1
            self._strikes.remove(strike)

    def _patience_s(self, kind: Kind) -> float:
        return WORK_S if kind in AT_WORK and self._progress.ended < self._progress.jobs else PATIENCE_S

    def _look(self) -> None:
        if time.monotonic() - self._looked_s >= LOOK_S and (counts := self._stage.counts()):
            self._looked_s = time.monotonic()
            self._progress.ended = counts[0] - counts[1]
        self._audience.look(self._progress)

    def _tell(self, text: str) -> None:
        self._progress.last = text
        self._audience.note(f"{self._progress.elapsed_s:6.1f} s  {text}")

    def _end_kills(self) -> None:
        """End the kills, carry out the last repairs, and let the producer finish."""
        self._progress.peace = True
        self._tell("no more kills: waiting for the remaining jobs")
        while self._repairs or self._progress.submitted < len(self._jobs):
            self._tick()

    def _wait_for_the_end(self) -> None:
        """Wait until all jobs have ended, or until none has ended for `STUCK_S`."""
        before, since = -1, time.monotonic()
        while (counts := self._stage.counts()) is None or counts[1] > 0:
            if counts is not None and counts[1] != before:
                before, since = counts[1], time.monotonic()
            if time.monotonic() - since > STUCK_S:
                self._tell(f"no job has ended for {STUCK_S:g} s: the remaining jobs are stuck")
                return
            self._tick()
        self._tell("all jobs have ended")
        self._looked_s = 0.0
        self._look()

    def _report(self) -> Report:
        progress, store = self._progress, self._stage.store
        seconds = progress.elapsed_s
        expected = {job_id: graph.expected for job_id, graph in self._jobs.items()}
        expected |= {feed.job_id: feed.expected for feed in self._blows.feeds}
        found = [v for job_id, wanted in expected.items() for v in invariants.of_job(store, job_id, wanted)]
        found += invariants.of_store(store)
        reruns = sum(invariants.reruns(store.events(job_id)) for job_id in expected)
        return Report(
            self._schedule,
            seconds,
            progress.kills,
            progress.missed,
            reruns,
            tuple(found),
            self._blows.resubmitted,
            self._blows.refused(),
        )
