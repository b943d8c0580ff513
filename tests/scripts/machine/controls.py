"""The model of the controls: pause, resume, send a message, retry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from mirrorneuron.job import JobStatus
from mirrorneuron.store.protocol import ReplyCode
from tests.scripts.machine.model import Agent, Job, Reported


@dataclass
class Controlled:
    """The reply to a control; the status is that of the job afterwards."""

    word: ReplyCode
    status: JobStatus
    waiting: Reported = field(default_factory=dict)
    run: int = 0  #: of a retry


def move(job: Job, now: int, to: JobStatus) -> Controlled:
    """Only a running job can be paused, and only a paused one resumed. Asking for the present status changes nothing.

    It reports all ready agents again, because the first reply may have been lost.
    """
    if not job.live:
        return Controlled(ReplyCode.ENDED, job.status)
    if job.status is to:
        return Controlled(ReplyCode.SETTLED, job.status, job.waiting(now, report_all=True))
    if job.status is JobStatus.PENDING:
        return Controlled(ReplyCode.REFUSED, job.status)
    job.status = to
    job.revision += 1
    if to is JobStatus.RUNNING:
        job.idle_since_ms, job.resumed_ms = None, now
    job.record("job_paused" if to is JobStatus.PAUSED else "job_resumed")
    return Controlled(ReplyCode.SETTLED, job.status, job.waiting(now, report_all=True))


def deliver(job: Job, now: int, name: str, message_id: str, message: bytes) -> Controlled:
    """Deliver a message from outside like any other mail. A duplicate is delivered once."""
    if not job.live:
        return Controlled(ReplyCode.ENDED, job.status)
    known = f"{name}\n{message_id}"
    if known in job.delivered:
        return Controlled(ReplyCode.DUPLICATE, job.status, job.waiting(now, report_all=True))
    if not job.has_room_for(len(message)):
        return Controlled(ReplyCode.FULL, job.status)
    job.begin()
    job.delivered.add(known)
    job.agents[name].mail.append(message)
    job.revision += 1
    job.idle_since_ms = None
    job.look(now)
    return Controlled(ReplyCode.DELIVERED, job.status, job.waiting(now))


def retry(job: Job, now: int, ended: int, start: str, clear: Collection[str]) -> Controlled:
    """Continue a job whose run *ended* where it stopped, as the next run. With *start*, clear the agents in *clear*."""
    if job.status is JobStatus.RUNNING or job.run != ended:
        return Controlled(ReplyCode.SETTLED, job.status, job.waiting(now, report_all=True), job.run)
    if job.live or job.status is JobStatus.COMPLETED:
        return Controlled(ReplyCode.REFUSED, job.status)
    job.status, job.run, job.revision = JobStatus.RUNNING, job.run + 1, job.revision + 1
    job.result, job.finished_ms, job.aged_from_ms = b"", None, now
    job.started_ms = now if job.started_ms is None else job.started_ms
    job.record("job_recovery_started", agent=start)
    job.record("job_running")
    again, kept = _last_input(job.agents[start]) if start else ([], 0)
    for name in clear:
        agent = job.agents[name]
        if len(agent.mail) > (kept if name == start else 0):
            job.record("mail_cleared", agent=name)
        agent.mail, agent.state, agent.output, agent.processed, agent.threshold = [], b"", b"", 0, agent.kind.threshold
    if start:
        job.agents[start].mail += again
    for agent in job.agents.values():
        agent.attempts, agent.losses, agent.error, agent.due_ms, agent.cut = 0, 0, b"", 0, False
        agent.interrupted, agent.lost, agent.alone, agent.beside = False, [], "", 0
    job.look(now)
    return Controlled(ReplyCode.SETTLED, job.status, job.waiting(now, report_all=True), job.run)


def _last_input(agent: Agent) -> tuple[list[bytes], int]:
    """The agent's last input, and how many of its messages are from the mailbox.

    It is the input of a run that failed or was cut off, else the last message consumed, else the first in the mailbox.
    """
    was_at_it = agent.error or agent.interrupted or agent.cut
    mail = agent.mail[: agent.kind.take or agent.kind.threshold or 1]
    if mail and (was_at_it or not agent.last):
        return mail, len(mail)
    return [agent.last] if agent.last else [], 0
