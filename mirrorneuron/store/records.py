"""Parse raw Redis replies into the records of the API: job maps, agent snapshots, events, nodes, summaries.

Other programs can write to the server, so each record is checked against its type. A record that does not match raises
RecordDamaged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from mirrorneuron.bundle.plan import PlannedNode
from mirrorneuron.errors import MirrorNeuronError, RecordDamaged
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
    NodeInfo,
    iso,
)
from mirrorneuron.message import Message, decode

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
AGENT_FIELDS: Final = ("state", "processed", "token", "node", "claimed_at", "error", "attempts", "losses")
SUMMARY: Final = ("job_id", "graph_id", "job_name", "status", "submitted_at", "updated_at", "daemon", "metadata")
_HIDDEN: Final = frozenset(
    {"user", "collected", "recent"}
)  # keys of an agent's state that a snapshot shows elsewhere, or as a length
Raw = Sequence[bytes | None]
T = TypeVar("T")

log = logging.getLogger("mirrorneuron")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise RecordDamaged, which names *what*, for an error of parsing within the block."""
    try:
        yield
    except MirrorNeuronError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RecordDamaged(f"{what} cannot be read: {where}: {first['msg']}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError) as error:
        raise RecordDamaged(f"{what} cannot be read: {type(error).__name__}: {error}") from error


def readable(read: Callable[..., T], rows: Iterable[Sequence[Any]]) -> Iterator[T]:
    """Yield the result of *read* for each row. A row that raises RecordDamaged is skipped with a warning."""
    for row in rows:
        try:
            yield read(*row)
        except RecordDamaged as error:
            log.warning("skipped: %s", error)


@cache
def _checker(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(kind: type[T], found: dict[str, Any]) -> T:
    """Return *found* if it matches the TypedDict *kind*; keys not in the type are kept. Raises ValidationError."""
    _checker(cast(Hashable, kind)).validate_python(found, strict=True)
    return cast(T, found)


def _time(value: bytes | None) -> str | None:
    return iso(int(value)) if value else None


def _time_of(entry_id: str) -> str:
    """Return the time of a stream entry, whose id begins with the milliseconds."""
    return iso(int(entry_id.partition("-")[0]))


def job_head(job_id: str, row: Raw | Exception) -> JobMap | None:
    """Parse the job map without its result from the values of JOB_FIELDS but the last. Raises RecordDamaged.

    *row* is an exception if the command failed.
    """
    if isinstance(row, Exception):
        raise RecordDamaged(f"the record of job {job_id!r} cannot be read: {row}")
    return job_map(job_id, [*row, None])


def job_map(job_id: str, row: Raw) -> JobMap | None:
    """Parse the job map from the values of JOB_FIELDS; None if there is no such job. Raises RecordDamaged."""
    static, status, run, submitted, updated, started, finished, idle_since, result = row
    if static is None and status is None:
        return None
    with reading(f"the record of job {job_id!r}"):
        known = {**decode(static or b"")}
        if known.get("job_id", job_id) != job_id:
            raise ValueError(f"the server answered with the record of job {known['job_id']!r}")
        return _checked(
            JobMap,
            {
                "metadata": {},  # absent in records of earlier versions
                **known,
                "job_id": job_id,
                "status": JobStatus((status or b"").decode()).value,
                "run": int(run or 1),
                "submitted_at": _time(submitted),
                "updated_at": _time(updated),
                "started_at": _time(started),
                "finished_at": _time(finished),
                "idle_since": _time(idle_since),
                "result": decode(result) if result else None,
            },
        )


def node(name: str, raw: bytes) -> NodeInfo:
    """Parse a worker's registration, without the queue lengths of its pools. Raises RecordDamaged."""
    with reading(f"the registration of node {name!r}"):
        found = decode(raw)
        found.setdefault("stopping", False)  # absent in registrations of earlier versions
        found.setdefault("unhealthy", None)
        for info in found["pools"].values():
            info["queued"] = None
        return _checked(NodeInfo, found)


def summary(job: JobMap) -> JobSummary:
    return cast(JobSummary, {name: job[name] for name in SUMMARY})


def snapshot(
    node: PlannedNode, row: Raw, depth: int, lease_ends: float | None, job_id: str, status: bytes, lease_ms: int
) -> AgentSnapshot:
    """Parse the snapshot of one agent from the values of AGENT_FIELDS, its mailbox depth and the end of its claim's
    lease (ms). *status* is that of the job. Raises RecordDamaged.
    """
    with reading(f"agent {node.node_id!r} of job {job_id!r}"):
        found = _snapshot(node, row, depth, JobStatus(status.decode()))
        renewed = iso(int(lease_ends) - lease_ms) if lease_ends else None
        return _checked(AgentSnapshot, {**found, "parent_job_id": job_id, "last_heartbeat_at": renewed})


def _snapshot(node: PlannedNode, row: Raw, depth: int, status: JobStatus) -> dict[str, Any]:
    """Return the fields of a snapshot, without the job id and the last heartbeat."""
    state, processed, token, assigned, _, error, attempts, losses = row
    if losses and status is JobStatus.FAILED:
        error = error or b"the worker died while it ran this message"
    known: dict[str, Any] = decode(state) if state else {}
    return {
        "agent_id": node.node_id,
        "node_id": node.node_id,
        "agent_type": node.agent_type,
        "type": node.template,
        "role": node.role,
        "current_state": known.get("user", {}),
        "mailbox_depth": depth,
        "processed_messages": int(processed or 0),
        "assigned_node": assigned.decode() if assigned else None,
        "status": _agent_status(
            node, status, claimed=bool(token), failed=bool(error), depth=depth, processed=int(processed or 0)
        ),
        "last_error": error.decode("utf-8", "replace") if error else None,
        "metadata": {
            "paused": status is JobStatus.PAUSED,
            "outbound_edges": node.out_degree,
            "pool": node.pool,
            "attempts": int(attempts or 0),
            **{name: value for name, value in known.items() if name not in _HIDDEN},
            **({"collected": len(known["collected"])} if "collected" in known else {}),
        },
    }


def _agent_status(
    node: PlannedNode, job: JobStatus, *, claimed: bool, failed: bool, depth: int, processed: int
) -> AgentStatus:
    if failed and (job is JobStatus.FAILED or not claimed):
        return AgentStatus.ERROR
    if job is JobStatus.COMPLETED:
        return AgentStatus.COMPLETED
    if claimed:
        return AgentStatus.BUSY if node.light else AgentStatus.RUNNING
    if job is JobStatus.PAUSED:
        return AgentStatus.PAUSED
    if depth >= (node.threshold or 1):
        return AgentStatus.QUEUED  # also in a failed or cancelled job, whose mail is kept for a retry
    return AgentStatus.COMPLETED if job in TERMINAL and processed and not depth else AgentStatus.READY


def event(job_id: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Event:
    """Parse an event from its stream entry. The event's id is the entry's id. Raises RecordDamaged."""
    name = entry_id.decode()
    with reading(f"event {name} of job {job_id!r}"):
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


def log_chunk(job_id: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> LogChunk:
    name = entry_id.decode()
    with reading(f"output {name} of job {job_id!r}"):
        return {
            "id": name,
            "timestamp": _time_of(name),
            "agent_id": fields[b"a"].decode(),
            "stream": fields[b"s"].decode(),
            "text": fields[b"t"].decode("utf-8", "replace"),
        }


def dead_letter(job_id: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    name = entry_id.decode()
    with reading(f"dead letter {name} of job {job_id!r}"):
        return {
            "message_id": fields[b"i"].decode(),
            "agent_id": fields[b"a"].decode(),
            "reason": fields[b"r"].decode("utf-8", "replace"),
            "timestamp": _time_of(name),
            "message": decode(fields[b"m"]),
        }


def stopped_on(raw: bytes, agent: str, job: JobMap) -> DeadLetter:
    """Parse the message on which a job failed, at the head of the mailbox of *agent*. Raises RecordDamaged."""
    with reading(f"the first message in the mailbox of agent {agent!r} of job {job['job_id']!r}"):
        message = Message.parse(raw)
        return {
            "message_id": message.id,
            "agent_id": agent,
            "reason": str((job["result"] or {}).get("error")),
            "timestamp": job["finished_at"] or job["updated_at"],
            "message": message.as_dict(),
        }


def ends_the_job(found: Event) -> bool:
    """Return True if the event records the end of its job."""
    ours = "agent_id" not in found  # agents may record events of any type
    return ours and found["type"] in (EventType.JOB_COMPLETED, EventType.JOB_FAILED, EventType.JOB_CANCELLED)
