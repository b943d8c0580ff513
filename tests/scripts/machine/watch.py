"""The sweeper of the state machine: when it looks at the job next, and what it must not leave as it is for too long."""

from __future__ import annotations

from collections.abc import Iterator

from mirrorneuron.job import JobStatus
from mirrorneuron.store.look_schedule import claim_bound_ms
from mirrorneuron.store.protocol import ReplyCode, SweepReply
from tests.scripts.machine.model import Job
from tests.scripts.machine.stage import JOB, LEASE_MS
from workers.recovery.next_look import next_look_ms
from workers.recovery.reminders import FIRST_WAIT_S, Reminders

Fact = tuple[object, ...]
TICK_MS = 1_000
BOUND_MS = claim_bound_ms(LEASE_MS) + int(1_000 * FIRST_WAIT_S) + 2 * TICK_MS


class Watch:
    """One sweeper's view of the job. *now* is the time of the machine, in ms."""

    def __init__(self, job: Job, now: int) -> None:
        self.due_ms = now
        self.reminders = Reminders()
        self._job = job
        self._announced: set[Fact] = set()
        self._since: dict[Fact, int] = {}

    def looked(self, swept: SweepReply, now: int) -> None:
        """Announce as the sweeper does, and set the next look."""
        if swept.word is ReplyCode.IDLE:  # it was settled, and is looked at again at once
            return
        at_s, rows = now / 1_000, {row.pool: (row.oldest, row.ready_ms, row.new) for row in swept.waiting}
        if swept.word is ReplyCode.OPEN:
            rows = {"": ("", swept.since_ms, 0)}
        for pool, (oldest, ready_ms, new) in rows.items():
            due = self.reminders.is_due((JOB.job_id, pool), (oldest, ready_ms), at_s - ready_ms / 1_000, at_s)
            if due and not new:
                self.reminders.announced((JOB.job_id, pool), at_s)
            if due or new:
                self._announced.update(self._facts())
        self.reminders.looked_at(JOB.job_id, rows.keys(), at_s)
        self.due_ms = next_look_ms(swept, now, LEASE_MS, self.reminders.next_s(JOB.job_id, at_s))

    def neglected(self, now: int) -> list[Fact]:
        """What has been as it is for longer than the bound, without an announcement."""
        facts = [fact for fact in self._facts() if fact not in self._announced]
        self._since = {fact: self._since.get(fact, now) for fact in facts}
        return [fact for fact, since in self._since.items() if now - since > BOUND_MS]

    def _facts(self) -> Iterator[Fact]:
        job = self._job
        if job.status is JobStatus.PENDING:
            yield ("pending",)
        if job.idle and job.idle_since_ms is None:
            yield ("idle", job.revision)
        if job.status is JobStatus.RUNNING:
            for pool in {agent.kind.pool for agent in job.agents.values()}:
                if ready := job.ready(pool):
                    yield (pool, *min((at, name) for name, at in ready.items()))
