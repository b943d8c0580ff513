"""The model of a sweep: what a sweeper finds and repairs in a job."""

from __future__ import annotations

from dataclasses import dataclass, field

from mirrorneuron.bundle.manifest import RecoveryMode
from mirrorneuron.job import JobStatus
from mirrorneuron.store.protocol import ReplyCode
from tests.scripts.machine.model import Agent, Job, Reported


@dataclass
class Finding:
    """The reply to a sweep."""

    word: ReplyCode
    waiting: Reported = field(default_factory=dict)  #: to be announced
    agent: str = ""
    losses: int = 0


@dataclass
class Unchanged:
    """Since when the revision of a job is the same, as far as its sweepers know."""

    revision: int = -1
    opened: bool = False
    since_ms: int = 0  #: or since its last re-announcement
    wait_ms: int = 0


class Recovery:
    """The sweeps of one job, by any number of sweepers in turn."""

    def __init__(self, job: Job, first_wait_ms: int, longest_wait_ms: int) -> None:
        self._job = job
        self._first_ms = first_wait_ms
        self._longest_ms = longest_wait_ms
        self._unchanged = Unchanged()

    def sweep(self, now: int, after_gap: bool) -> Finding:
        job = self._job
        if not job.live:
            return Finding(ReplyCode.ENDED)
        if over := self._time_is_over(now):
            return Finding(over)
        job.begin()
        if after_gap:  # workers could not renew either
            for agent in job.held():
                agent.until_ms = now + job.lease_ms
        if poisoned := self._free_lost_claims(now):
            return Finding(ReplyCode.POISONED, {}, poisoned.name, poisoned.losses + 1)
        if self._is_to_be_announced_again(now):
            if job.status is JobStatus.PENDING:
                return Finding(ReplyCode.OPEN)
            return Finding(ReplyCode.AGAIN, job.waiting(now, report_all=True))
        if job.idle and job.idle_since_ms is None:
            return Finding(ReplyCode.IDLE)
        return Finding(ReplyCode.RUNNING, {pool: row for pool, row in job.waiting(now).items() if row[1]})

    def _time_is_over(self, now: int) -> ReplyCode | None:
        """LATE or OVERDUE. The age counts from the submission or the last retry, idleness from the settling."""
        job, limits = self._job, self._job.policies
        if limits.job_timeout_ms is not None and now - job.aged_from_ms >= limits.job_timeout_ms:
            return ReplyCode.LATE
        if limits.idle_timeout_ms is None or job.idle_since_ms is None or job.status is not JobStatus.RUNNING:
            return None
        return ReplyCode.OVERDUE if now - job.idle_since_ms >= limits.idle_timeout_ms else None

    def _free_lost_claims(self, now: int) -> Agent | None:
        """Free expired claims, the oldest first, up to an agent that has killed too many workers; return that agent."""
        job = self._job
        for agent in [agent for agent in job.held() if agent.until_ms <= now]:
            lost = agent.losses + bool(agent.mail)
            if lost and lost >= job.policies.max_agent_restart_attempts:
                agent.holder = "poisoned"  # its worker may only be slow, and must not commit
                return agent
            agent.holder, agent.losses = "", lost
            job.record("agent_recovery_started", "agent_recovered", agent=agent.name)
            if job.policies.recovery_mode is RecoveryMode.MANUAL_RECOVER and job.status is JobStatus.RUNNING:
                job.status = JobStatus.PAUSED
                job.record("job_paused", agent=agent.name)
            job.look(now)
        return None

    def _is_to_be_announced_again(self, now: int) -> bool:
        """True if the wait is over. It doubles while the revision stays, because a long queue is not a loss.

        While no agent is ready it does not double, so that the next agent that is due does not wait longer.
        """
        unchanged = self._unchanged
        job = self._job
        if (unchanged.revision, unchanged.opened) != (job.revision, job.opened):
            self._unchanged = Unchanged(job.revision, job.opened, now, self._first_ms)
            return False
        if now - unchanged.since_ms < unchanged.wait_ms:
            return False
        reported = job.status is JobStatus.PENDING or job.waiting(now)
        wait_ms = min(2 * unchanged.wait_ms, self._longest_ms) if reported else self._first_ms
        self._unchanged = Unchanged(job.revision, job.opened, now, wait_ms)
        return True
