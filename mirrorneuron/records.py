"""Raw Redis replies as the records of the API: job maps, agent snapshots, events, summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mirrorneuron.job import (
    TERMINAL,
    AgentSnapshot,
    AgentStatus,
    DeadLetter,
    Event,
    EventType,
    JobMap,
    JobStatus,
    JobSummary,
    LogChunk,
    iso,
)
from mirrorneuron.message import decode
from mirrorneuron.plan import PlannedNode

JOB_FIELDS: Final = (
    "static",
    "status",
    "run",
    "submitted_at",
    "updated_at",
    "started_at",
    "finished_at",
    "idle_since",
    "result",
)
AGENT_FIELDS: Final = ("state", "processed", "token", "node", "claimed_at", "error", "attempts")
SUMMARY: Final = ("job_id", "graph_id", "job_name", "status", "submitted_at", "updated_at", "daemon")
_HIDDEN: Final = frozenset({"user", "collected", "recent"})  # of an agent's state: shown elsewhere, or by its length
Raw = Sequence[bytes | None]


def _time(value: bytes | None) -> str | None:
    return iso(int(value)) if value else None


def _time_of(entry_id: str) -> str:
    """When a stream's entry was written: its id begins with the milliseconds."""
    return iso(int(entry_id.partition("-")[0]))


def job_map(row: Raw) -> JobMap | None:
    """The job map from the values of JOB_FIELDS; None when there is no such job."""
    static, status, run, submitted, updated, started, finished, idle_since, result = row
    if static is None or status is None:
        return None
    return cast(
        JobMap,
        {
            **decode(static),
            "status": status.decode(),
            "run": int(run or 1),
            "submitted_at": _time(submitted),
            "updated_at": _time(updated),
            "started_at": _time(started),
            "finished_at": _time(finished),
            "idle_since": _time(idle_since),
            "result": decode(result) if result else None,
        },
    )


def summary(job: JobMap) -> JobSummary:
    return cast(JobSummary, {name: job[name] for name in SUMMARY})


def snapshot(
    node: PlannedNode, row: Raw, depth: int, job_id: str, status: JobStatus, renewed_at_ms: int | None
) -> AgentSnapshot:
    """The snapshot of one agent of a job in *status*: from the values of AGENT_FIELDS, its mailbox depth and its
    claim's last renewal.
    """
    state, processed, token, assigned, _, error, attempts = row
    known: dict[str, Any] = decode(state) if state else {}
    return {
        "agent_id": node.node_id,
        "node_id": node.node_id,
        "agent_type": node.agent_type,
        "type": node.template,
        "role": node.role,
        "current_state": known.get("user") or {},
        "mailbox_depth": depth,
        "processed_messages": int(processed or 0),
        "assigned_node": assigned.decode() if assigned else None,
        "status": _agent_status(node, status, bool(token), bool(error), depth),
        "last_heartbeat_at": iso(renewed_at_ms) if renewed_at_ms else None,
        "parent_job_id": job_id,
        "last_error": error.decode("utf-8", "replace") if error else None,
        "metadata": {
            "paused": status is JobStatus.PAUSED,
            "outbound_edges": node.degree,
            "pool": node.pool,
            "attempts": int(attempts or 0),
            **{name: value for name, value in known.items() if name not in _HIDDEN},
            **({"collected": len(known["collected"])} if "collected" in known else {}),
        },
    }


def _agent_status(node: PlannedNode, job: JobStatus, claimed: bool, failed: bool, depth: int) -> AgentStatus:
    if failed and (job is JobStatus.FAILED or not claimed):
        return AgentStatus.ERROR
    if job in TERMINAL:
        return AgentStatus.COMPLETED
    if claimed:
        return AgentStatus.BUSY if node.light else AgentStatus.RUNNING
    if job is JobStatus.PAUSED:
        return AgentStatus.PAUSED
    return AgentStatus.QUEUED if depth >= (node.need or 1) else AgentStatus.READY


def event(job_id: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Event:
    """One event from its stream entry; its id is the entry's id, whose first part is the time in milliseconds."""
    name = entry_id.decode()
    found: Event = {
        "id": name,
        "timestamp": _time_of(name),
        "job_id": job_id,
        "type": fields[b"t"].decode(),
    }
    if agent := fields.get(b"a"):
        found["agent_id"] = agent.decode()
    if payload := fields.get(b"p"):
        found["payload"] = decode(payload)
    return found


def log_chunk(entry_id: bytes, fields: Mapping[bytes, bytes]) -> LogChunk:
    name = entry_id.decode()
    return {
        "id": name,
        "timestamp": _time_of(name),
        "agent_id": fields[b"a"].decode(),
        "stream": fields[b"s"].decode(),
        "text": fields[b"t"].decode("utf-8", "replace"),
    }


def dead_letter(entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    return {
        "message_id": fields[b"i"].decode(),
        "agent_id": fields[b"a"].decode(),
        "reason": fields[b"r"].decode("utf-8", "replace"),
        "timestamp": _time_of(entry_id.decode()),
        "message": decode(fields[b"m"]),
    }


def stopped_on(raw: bytes, agent: str, job: JobMap) -> DeadLetter:
    """The message at the head of the mailbox of the *agent* in which a job failed."""
    message = decode(raw)
    return {
        "message_id": str(message["envelope"]["message_id"]),
        "agent_id": agent,
        "reason": str((job["result"] or {}).get("error")),
        "timestamp": job["finished_at"] or job["updated_at"],
        "message": message,
    }


def ends_the_job(found: Event) -> bool:
    ours = "agent_id" not in found  # an agent may record whatever it likes
    return ours and found["type"] in (EventType.JOB_COMPLETED, EventType.JOB_FAILED, EventType.JOB_CANCELLED)
