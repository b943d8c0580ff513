"""The records that workers and the store exchange: claims, steps, ends, and the replies of scripts."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from mirrorneuron.job import JobStatus


class JobRef(NamedTuple):
    """A run of a job. The first arguments of every task."""

    job_id: str
    run: int  #: raised by each retry, so that no commit of an earlier run is accepted
    digest: str  #: of the bundle, so that a node finds the plan without reading the job


class ReplyCode(StrEnum):
    """The first word of a script's reply; see the header of each script."""

    CREATED = "CREATED"
    EXISTS = "EXISTS"
    CONFLICT = "CONFLICT"
    CLAIMED = "CLAIMED"
    COMMITTED = "COMMITTED"
    FLUSHED = "FLUSHED"
    SETTLED = "SETTLED"
    RENEWED = "RENEWED"
    PAUSED = "PAUSED"
    MOVED = "MOVED"
    FULL = "FULL"
    REFUSED = "REFUSED"
    DELIVERED = "DELIVERED"
    DUPLICATE = "DUPLICATE"
    GONE = "GONE"
    LOGGED = "LOGGED"
    RUNNING = "RUNNING"
    OPEN = "OPEN"
    IDLE = "IDLE"
    LATE = "LATE"
    OVERDUE = "OVERDUE"
    POISONED = "POISONED"
    STALE = "STALE"
    ENDED = "ENDED"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claimed agent: its state and the mail that its run consumes."""

    agent_id: str
    state: bytes  #: JSON of its state; empty before its first commit
    processed: int  #: messages consumed so far
    attempts: int  #: failed runs of the message at the head of its mailbox
    waited_ms: int  #: from ready to claimed
    mail: tuple[bytes, ...]  #: message JSON, oldest first; empty if its mail comes from other agents of this claim
    losses: int = 0  #: workers that died while they ran the message at the head of its mailbox


@dataclass(frozen=True, slots=True)
class ReadyAgents:
    """The agents of one pool that may be claimed now."""

    pool: str
    due: int
    new: int  #: how many of them became ready in this script
    agent_id: str  #: the agent if `due` is 1; else empty


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to claim, commit and flush."""

    word: ReplyCode
    revision: int = 0  #: changes of the job so far; the same number later proves that nothing has changed
    idle: bool = False
    ended: bool = False  #: the commit has ended the job
    waiting: tuple[ReadyAgents, ...] = ()
    claims: tuple[Claim, ...] = ()
    token: str = ""  #: proves ownership of `claims` when they commit


@dataclass(frozen=True, slots=True)
class ControlReply:
    """The reply to pause, resume, deliver and retry: the job's status, and the agents that may be claimed now."""

    word: ReplyCode
    status: str
    waiting: tuple[ReadyAgents, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitingAgents(ReadyAgents):
    """Ready agents, with the one of them that has been ready for longest."""

    oldest: str
    ready_ms: int  #: since when `oldest` could be claimed: it is ready, and its job was opened or resumed (server time)


@dataclass(frozen=True, slots=True)
class SweepReply:
    """The reply to a sweep of one job."""

    word: ReplyCode
    job: JobRef | None  #: None if the job does not exist
    revision: int
    waiting: tuple[WaitingAgents, ...]
    agent_id: str  #: the agent of POISONED; else empty
    losses: int  #: how many workers died while they ran its message
    since_ms: int  #: when the job was submitted or retried last (server time)
    look_ms: int | None  #: when a lease or a delay ends, or a time-out may be over (server time); None: never


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ends."""

    status: JobStatus
    result: bytes  #: JSON: {agent_id, output} | {agent_id, error, details} | {reason}
    summary: bytes = b""  #: JSON payload of the event


class DeadLetterDraft(NamedTuple):
    """A message that becomes a dead letter."""

    message_id: str
    agent_id: str  #: the recipient
    reason: str
    message: bytes


@dataclass(slots=True)
class Step:
    """The changes of one agent's run. The commit writes all of them or none."""

    agent_id: str
    consumed: int = 0  #: messages to remove from the head of the mailbox
    processed: int = 0  #: all messages consumed so far, including these
    state: bytes = b""  #: JSON; empty: unchanged
    last: bytes = b""  #: the last consumed message that had not expired; empty: unchanged
    output: bytes = b""  #: JSON of the last emitted body, for agents without outgoing edges; empty: unchanged
    threshold: int | None = None  #: messages that the agent needs to be ready again; None: unchanged
    attempts: int = 0
    delay_ms: int | None = None  #: for which the agent is not claimed again; None: no delay
    error: str = ""  #: of the last run, one line
    outgoing: list[tuple[str, bytes]] = field(default_factory=list)  #: (agent, message JSON), in order
    inline_mail: list[tuple[str, bytes]] = field(default_factory=list)  #: for agents of this claim; not in Redis
    events: list[tuple[str, bytes]] = field(default_factory=list)  #: (type, payload JSON or b"")
    dead: list[DeadLetterDraft] = field(default_factory=list)
    end: JobEnd | None = None
    consumed_bytes: int = 0  #: of the consumed messages
    not_run: bool = False  #: the agent was given back without a run, so its losses still count
    inline_only: bool = False  #: it consumed mail sent within this commit, so its mailbox must still be empty
    goes_on: bool = False  #: it handles mail sent within this commit now, and keeps its claim

    @property
    def size(self) -> int:
        """Bytes of this step in a commit, without ids and names."""
        rows = sum(len(text) for _, text in (*self.outgoing, *self.inline_mail, *self.events))
        return len(self.state) + len(self.last) + len(self.output) + rows + sum(len(dead.message) for dead in self.dead)


def untouched(claim: Claim, events: Sequence[tuple[str, bytes]] = ()) -> Step:
    """Return the step that gives a claim back unchanged."""
    return Step(claim.agent_id, processed=claim.processed, attempts=claim.attempts, events=list(events), not_run=True)


def new_token() -> str:
    """Return a random token for a claim."""
    return secrets.token_hex(8)


class Announcement(NamedTuple):
    """How `create` announces a job, on a queue that is a list of this server."""

    queue: str
    message: bytes
    manifest: str  #: key of the bundle's manifest
    payloads: str  #: key of its payloads, or of the manifest if it has none


class Created(NamedTuple):
    """The reply of `create`."""

    word: ReplyCode  #: CREATED, EXISTS or CONFLICT
    status: str  #: of the job
    announced: bool
    others: list[Any]  #: the replies to the commands of the same round trip
