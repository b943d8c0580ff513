"""The progress of a job, computed from its events alone: agent snapshots need not be fetched."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from mirrorneuron.job import Event, EventType, JobStatus

STATUSES: Final[dict[str, JobStatus]] = {
    EventType.JOB_RUNNING: JobStatus.RUNNING,
    EventType.JOB_RESUMED: JobStatus.RUNNING,
    EventType.JOB_PAUSED: JobStatus.PAUSED,
    EventType.JOB_COMPLETED: JobStatus.COMPLETED,
    EventType.JOB_FAILED: JobStatus.FAILED,
    EventType.JOB_CANCELLED: JobStatus.CANCELLED,
}


@dataclass
class Progress:
    """Counts, updated with each event. One thread calls `note`; other threads may read."""

    job_id: str
    total: int  #: agents of the job
    status: str = JobStatus.PENDING
    messages: int = 0  #: handled by agents
    queued: set[str] = field(default_factory=set)  #: agents that wait for a slot
    busy: set[str] = field(default_factory=set)  #: agents that hold a slot
    done: set[str] = field(default_factory=set)  #: agents that have handled their messages so far
    last: Event | None = None
    hint: str = ""  #: why the job makes no progress; "" if unknown
    started_s: float = field(default_factory=time.monotonic)

    def note(self, event: Event) -> None:
        """Update the counts with one event."""
        self.last = event
        kind, agent = event["type"], event.get("agent_id", "")
        self.status = STATUSES.get(kind, self.status)
        match kind:
            case EventType.EXECUTOR_LEASE_REQUESTED:
                self.done.discard(agent)
                self.queued.add(agent)
            case EventType.EXECUTOR_LEASE_ACQUIRED:
                self.done.discard(agent)
                self.queued.discard(agent)
                self.busy.add(agent)
            case EventType.EXECUTOR_LEASE_RELEASED:
                self.busy.discard(agent)
                self.done.add(agent)
            case EventType.EXECUTOR_RETRY:
                self.done.discard(agent)
                self.queued.add(agent)
            case EventType.SANDBOX_JOB_COMPLETED:
                self.messages += 1
            case EventType.AGENT_MESSAGE_RECEIVED | EventType.AGGREGATOR_RECEIVED:
                self.messages += _count(event)
                self._handled(agent)
            case EventType.SENSOR_OBSERVED:
                self.messages += 1
                self._handled(agent)
            case _:
                pass

    def _handled(self, agent: str) -> None:
        if agent not in self.busy:  # a module holds a slot: it is done when it releases the slot
            self.done.add(agent)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s


def _count(event: Event) -> int:
    payload = event.get("payload")
    number = payload.get("count") if isinstance(payload, dict) else None
    return number if isinstance(number, int) else 1
