"""The vocabulary of jobs: statuses, event types, and the type of every record that the API returns."""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NotRequired

from typing_extensions import TypedDict  # before Python 3.12 pydantic rejects the TypedDict of typing


class JobStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = JobStatus
TERMINAL: Final = frozenset({S.COMPLETED, S.FAILED, S.CANCELLED})

CELERY_STATE: Final[dict[JobStatus, str]] = {  # the value of `AsyncResult(job_id).state`
    S.PENDING: "PENDING",
    S.RUNNING: "STARTED",
    S.PAUSED: "PAUSED",
    S.COMPLETED: "SUCCESS",
    S.FAILED: "FAILURE",
    S.CANCELLED: "REVOKED",
}


class AgentStatus(StrEnum):
    READY = "ready"  #: has nothing to do
    QUEUED = "queued"  #: holds messages that it can handle; not claimed
    BUSY = "busy"  #: a light agent, claimed by a worker
    RUNNING = "running"  #: an executor or module, claimed by a worker
    COMPLETED = "completed"  #: the job has ended
    ERROR = "error"  #: its last run failed
    PAUSED = "paused"


class EventType(StrEnum):
    """The event types of the runtime; agents may use other types."""

    JOB_PENDING = "job_pending"
    JOB_VALIDATED = "job_validated"
    JOB_SCHEDULED = "job_scheduled"
    JOB_RUNNING = "job_running"
    JOB_PAUSED = "job_paused"
    JOB_RESUMED = "job_resumed"
    JOB_IDLE = "job_idle"
    JOB_COMPLETED = "job_completed"
    JOB_FAILED = "job_failed"
    JOB_CANCELLED = "job_cancelled"
    JOB_RECOVERY_STARTED = "job_recovery_started"
    MAIL_CLEARED = "mail_cleared"
    AGENT_MESSAGE_RECEIVED = "agent_message_received"
    AGENT_RECOVERY_STARTED = "agent_recovery_started"
    AGENT_RECOVERED = "agent_recovered"
    MESSAGE_UNROUTED = "message_unrouted"
    MESSAGE_EXPIRED = "message_expired"
    DEAD_LETTER = "dead_letter"
    AGGREGATOR_RECEIVED = "aggregator_received"
    AGGREGATOR_DUPLICATE_IGNORED = "aggregator_duplicate_ignored"
    SENSOR_OBSERVED = "sensor_observed"
    EXECUTOR_LEASE_REQUESTED = "executor_lease_requested"
    EXECUTOR_LEASE_ACQUIRED = "executor_lease_acquired"
    EXECUTOR_LEASE_RELEASED = "executor_lease_released"
    SANDBOX_JOB_COMPLETED = "sandbox_job_completed"
    SANDBOX_JOB_FAILED = "sandbox_job_failed"
    SANDBOX_OUTPUT_CUT = "sandbox_output_cut"
    EXECUTOR_RETRY = "executor_retry"


class ManifestRef(TypedDict):
    graph_id: str
    manifest_version: str
    manifest_path: str | None
    job_path: str | None
    digest: str  #: SHA-256 of the manifest and its payloads


class JobMap(TypedDict):
    """The record of one job. Times are ISO 8601 UTC with milliseconds and `Z`."""

    job_id: str
    graph_id: str
    job_name: str
    status: str
    submitted_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None
    idle_since: str | None
    run: int
    daemon: bool
    root_agent_ids: list[str]
    placement_policy: str
    recovery_policy: str
    result: dict[str, Any] | None
    metadata: dict[str, Any]  #: of the manifest and of the submission; {} if there is none
    manifest_ref: ManifestRef


class AgentSnapshot(TypedDict):
    agent_id: str
    node_id: str
    agent_type: str
    type: str
    role: str | None
    current_state: Any  #: JSON: the `state` of a module, the `next_state` of an executor; {} at first
    mailbox_depth: int
    processed_messages: int
    assigned_node: str | None
    status: str
    last_heartbeat_at: str | None
    parent_job_id: str
    last_error: str | None
    metadata: dict[str, Any]


class Event(TypedDict):
    id: str
    timestamp: str
    job_id: str
    type: str
    agent_id: NotRequired[str]
    payload: NotRequired[Any]


class LogChunk(TypedDict):
    """A piece of the output of a command or module."""

    id: str
    timestamp: str
    agent_id: str
    stream: str  #: stdout or stderr; a module's output is always stdout
    text: str


class DeadLetter(TypedDict):
    """A message that expired, or whose recipient does not exist."""

    message_id: str
    agent_id: str  #: recipient of the message
    reason: str
    timestamp: str  #: time at which the message became a dead letter
    message: dict[str, Any]


class JobSummary(TypedDict):
    job_id: str
    graph_id: str
    job_name: str
    status: str
    submitted_at: str
    updated_at: str
    daemon: bool
    metadata: dict[str, Any]


class PoolInfo(TypedDict):
    slots: int
    in_use: int
    queued: int | None  #: tasks in the pool's queue; None if the broker is not the store's server


class Unhealthy(TypedDict):
    reason: str  #: like `disk full`
    since: str


class NodeInfo(TypedDict):
    name: str
    host: str
    pid: int
    started_at: str
    last_heartbeat_at: str
    stopping: bool  #: the node finishes its runs and claims no more agents
    unhealthy: Unhealthy | None  #: the node lacks something and takes no tasks for a while; None if all is well
    queues: list[str]
    pools: dict[str, PoolInfo]
    hardware: dict[str, Any]
    versions: dict[str, str]


class JobDetails(TypedDict):
    """The monitor's view of one job."""

    job: JobMap
    agents: list[AgentSnapshot]
    events: list[Event]


class ClusterOverview(TypedDict):
    """The monitor's view of the cluster: runtime nodes, newest jobs, and the number of jobs by status."""

    nodes: list[NodeInfo]
    jobs: list[JobSummary]
    counts: dict[str, int]


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # `-x` would be an option of a command, `.` and `..` are folders
_NOT_ID = re.compile(r"[^A-Za-z0-9._-]")


def is_job_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def new_job_id(graph_id: str) -> str:
    """`{graph_id}-{unix ms}-{12 hex digits}`, at most 128 characters, with `-` for characters not allowed in an id.

    Leading characters that are not a letter or digit are left out; `job` stands for a graph id without any other.
    """
    name = _NOT_ID.sub("-", graph_id).lstrip("._-")[:100] or "job"
    return f"{name}-{time.time_ns() // 1_000_000}-{secrets.token_hex(6)}"


def iso(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 UTC, like `2026-01-31T12:00:00.123Z`."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=64)  # the times of one record are often within a second
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def ms_of(moment: str) -> int:
    """The inverse of `iso`, for any ISO 8601 time; without a zone it is UTC. Raises ValueError."""
    found = datetime.fromisoformat(moment)
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def is_time(moment: str) -> bool:
    """True if *moment* is an ISO 8601 time."""
    with suppress(ValueError):
        ms_of(moment)
        return True
    return False
