"""The model of a sweep: what a sweeper finds and repairs in a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mirrorneuron.bundle.manifest import RecoveryMode
from mirrorneuron.job import JobStatus
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import ReplyCode
from tests.scripts.machine.model import Agent, Job, Reported


@dataclass
class Finding:
    """The reply to a sweep."""

    word: ReplyCode
    waiting: Reported = field(default_factory=dict)
    agent: str = ""
    losses: int = 0
    oldest: dict[str, tuple[str, int]] = field(default_factory=dict)  #: pool -> agent ready for longest, since when
    look: int | None = None  #: when a lease or a delay ends, or a time-out may be over


class Recovery:
    """The sweeps of one job, by any number of sweepers in turn."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def sweep(self, now: int, after_gap: bool, set_back: bool = False) -> Finding:
        job = self._job
        if not job.live:
            return Finding(ReplyCode.ENDED)
        if over := self.time_is_over(now):
            return Finding(over)
        job.begin()
        if after_gap:
            self._renew_once(now)
        if set_back:
            self._shorten(now)
        if poisoned := self._free_lost_claims(now):
            return Finding(ReplyCode.POISONED, {}, poisoned.name, poisoned.losses + 1)
        look = min(self._moments(now), default=None)
        if job.status is JobStatus.PENDING:
            return Finding(ReplyCode.OPEN, look=look)
        if job.idle and job.idle_since_ms is None:
            return Finding(ReplyCode.IDLE, look=look)
        waiting = job.waiting(now)
        oldest = {pool: min((at, name) for name, at in job.ready(pool).items()) for pool in waiting}
        since = max(job.started_ms or 0, job.resumed_ms)
        rows = {pool: (name, max(at, since)) for pool, (at, name) in oldest.items()}
        return Finding(ReplyCode.RUNNING, waiting, oldest=rows, look=look)

    def _moments(self, now: int) -> Iterator[int]:
        """When the sweeper may find something without a change from outside."""
        job, limits = self._job, self._job.policies
        yield from (agent.until_ms for agent in job.held())
        if limits.job_timeout_ms is not None:
            yield job.aged_from_ms + limits.job_timeout_ms
        if job.status is JobStatus.RUNNING:
            if limits.idle_timeout_ms is not None:
                yield (now if job.idle_since_ms is None else job.idle_since_ms) + limits.idle_timeout_ms
            ready = (agent.ready_ms for agent in job.agents.values() if agent.ready_ms is not None)
            yield from (at for at in ready if at > now)

    def _renew_once(self, now: int) -> None:
        """Workers could not renew either. A claim that was not renewed since the last gap belongs to a dead worker."""
        for agent in self._job.held():
            if agent.until_ms < now + self._job.lease_ms and agent.until_ms != agent.fresh_ms:
                agent.until_ms = agent.fresh_ms = now + self._job.lease_ms

    def _shorten(self, now: int) -> None:
        """The clock was set back: no lease and no delay ends later than if it began now."""
        for agent in self._job.agents.values():
            if agent.holder:
                agent.until_ms = min(agent.until_ms, now + 2 * self._job.lease_ms)
            if agent.ready_ms is not None:
                agent.ready_ms = min(agent.ready_ms, now + (agent.delay_ms if agent.due_ms else 0))

    def time_is_over(self, now: int) -> ReplyCode | None:
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
            # After its first loss a message runs alone: what dies before that, or beside others, died of another one.
            agent.beside = agent.beside if agent.losses else 0
            counts = not agent.losses or agent.kind.pool == LIGHT or agent.holder in (agent.alone, "poisoned")
            counts = counts or agent.beside == 2
            lost = agent.losses + bool(agent.mail and counts)
            if lost and lost >= job.policies.max_agent_restart_attempts:
                agent.holder = "poisoned"  # its worker may only be slow, and must not commit
                return agent
            if agent.mail:
                agent.beside = 0 if counts else agent.beside + 1
            agent.lost = [*(agent.lost if agent.losses else []), *([agent.holder] if agent.mail and counts else [])]
            agent.holder, agent.losses, agent.interrupted = "", lost, True
            job.record("agent_recovery_started", "agent_recovered", agent=agent.name)
            if job.policies.recovery_mode is RecoveryMode.MANUAL_RECOVER and job.status is JobStatus.RUNNING:
                job.status = JobStatus.PAUSED
                job.record("job_paused", agent=agent.name)
            job.look(now)
        return None
