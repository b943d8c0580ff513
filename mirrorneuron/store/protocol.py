"""What travels between a worker and the store: a claim, the steps it led to, and the store's reply."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from mirrorneuron.job import JobStatus


class JobRef(NamedTuple):
    """Which life of which job a task belongs to; the arguments that every task begins with."""

    job_id: str
    run: int  #: raised by a retry, so that nothing of an earlier run can land
    digest: str  #: of the bundle, so that a node finds the plan without asking for the record


class ReplyCode(StrEnum):
    """What a script answers with."""

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
    REFUSED = "REFUSED"
    DELIVERED = "DELIVERED"
    DUPLICATE = "DUPLICATE"
    GONE = "GONE"
    LOGGED = "LOGGED"
    RUNNING = "RUNNING"
    OPEN = "OPEN"
    AGAIN = "AGAIN"
    IDLE = "IDLE"
    LATE = "LATE"
    OVERDUE = "OVERDUE"
    POISONED = "POISONED"
    STALE = "STALE"
    ENDED = "ENDED"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class Claim:
    """One agent, held by one worker: what it knows and what it has to answer."""

    agent_id: str
    state: bytes  #: JSON of its state; empty before its first commit
    processed: int  #: messages consumed so far
    attempts: int  #: failed runs of the message at the head of its mailbox
    waited_ms: int  #: from ready to claimed
    mail: tuple[bytes, ...]  #: message JSON, oldest first; none if it is held for what others of the claim send


@dataclass(frozen=True, slots=True)
class ReadyAgents:
    """Agents of one pool that are ready, due, and claimed by nobody."""

    pool: str
    due: int
    new: int  #: how many of them this reply is the first to tell of
    agent_id: str  #: the one, if it is one; else empty


@dataclass(frozen=True, slots=True)
class Reply:
    """The store's answer to claim, commit and flush."""

    word: ReplyCode
    revision: int = 0  #: commits of the job so far; proves that nothing moved since
    idle: bool = False
    waiting: tuple[ReadyAgents, ...] = ()
    claims: tuple[Claim, ...] = ()
    token: str = ""  #: proves ownership of `claims` when they commit


@dataclass(frozen=True, slots=True)
class ControlReply:
    """The store's answer to a control of a job: what came of it, the status it is in, and what may run now."""

    word: ReplyCode
    status: str
    waiting: tuple[ReadyAgents, ...] = ()


@dataclass(frozen=True, slots=True)
class SweepReply:
    """What a sweep found out about one job."""

    word: ReplyCode
    job: JobRef | None  #: None for a job that is gone
    revision: int
    waiting: tuple[ReadyAgents, ...]  #: to be announced
    agent_id: str  #: of POISONED
    losses: int  #: how many workers its run has lost


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ends."""

    status: JobStatus
    result: bytes  #: JSON: {agent_id, output} | {agent_id, error, details} | {reason}
    summary: bytes = b""  #: JSON payload of the event


class DeadLetterDraft(NamedTuple):
    """A message that is given up on."""

    message_id: str
    agent_id: str  #: to whom it was sent
    reason: str
    message: bytes


@dataclass(slots=True)
class Step:
    """What one agent's run changes: nothing is written before the commit, and then all of it."""

    agent_id: str
    consumed: int = 0  #: messages taken off the head of the mailbox
    processed: int = 0  #: messages consumed in all, these included
    state: bytes = b""  #: JSON; empty: unchanged
    last: bytes = b""  #: the last message consumed that had not expired; empty: unchanged
    output: bytes = b""  #: JSON of the last body emitted, kept of agents without outgoing edges
    threshold: int | None = None  #: messages that must be in before it is ready again; None: unchanged
    attempts: int = 0
    delay_ms: int | None = None  #: not to be claimed before this has passed; None: at once
    error: str = ""  #: the last run's error, one line
    outgoing: list[tuple[str, bytes]] = field(default_factory=list)  #: (agent, message JSON), in order
    inline_mail: list[tuple[str, bytes]] = field(
        default_factory=list
    )  #: sent to agents of the same claim, and not in Redis
    events: list[tuple[str, bytes]] = field(default_factory=list)  #: (type, payload JSON or b"")
    dead: list[DeadLetterDraft] = field(default_factory=list)
    end: JobEnd | None = None
    inline_only: bool = False  #: it answered mail that was sent within this commit: its mailbox must have stayed empty

    @property
    def size(self) -> int:
        """Bytes that it carries to the server, but for ids and names."""
        rows = sum(len(text) for _, text in (*self.outgoing, *self.inline_mail, *self.events))
        return len(self.state) + len(self.last) + len(self.output) + rows + sum(len(dead.message) for dead in self.dead)


def untouched(claim: Claim, events: Sequence[tuple[str, bytes]] = ()) -> Step:
    """The step that gives a claim back as it was."""
    return Step(claim.agent_id, processed=claim.processed, attempts=claim.attempts, events=list(events))


def new_token() -> str:
    return secrets.token_hex(8)
