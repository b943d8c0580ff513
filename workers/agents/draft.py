"""One run of one agent, written down: what it consumed, what it sends, what it is now. Nothing here touches Redis.

The state of an agent is a JSON object. `user` is the agent's own part (a module's state, an executor's `next_state`);
the other keys are the runtime's counters, and show in the snapshot's metadata.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from mirrorneuron.agent import Action, Complete, Emit, Record
from mirrorneuron.bundle.conditions import holds
from mirrorneuron.bundle.manifest import RoutingMode, Template
from mirrorneuron.bundle.plan import PlannedEdge, PlannedNode
from mirrorneuron.job import EventType, JobStatus, iso
from mirrorneuron.message import Message, decode, encode, respond
from mirrorneuron.store.protocol import Claim, DeadLetterDraft, JobEnd, Step
from workers.agents.failures import encode_anyhow, one_line, printable, result_of

MOST_OUTGOING: Final = 100_000  # messages that one message may lead to, and as many events
MOST_BYTES: Final = 256 * 1024 * 1024  # of these messages: a server drops a client that sends 1 GiB at once
FULL_MESSAGES: Final = 10_000  # after which light agents leave the rest of their mail to another commit
FULL_BYTES: Final = 16 * 1024 * 1024
USER: Final = "user"


class RunFailed(Exception):
    """The run cannot take effect; the job fails with this one line and its details."""

    def __init__(self, error: str, details: Mapping[str, Any] | None = None, *, transient: bool = False) -> None:
        super().__init__(one_line(error))
        self.details = dict(details or {})
        self.transient = transient  #: may go well when tried again
        self.events: list[tuple[str, Any]] = []  #: what the job's story tells of the run although it failed


def run_failure(error: Exception) -> RunFailed:
    """*error* as the failure of the run that raised it. To be called where it was caught."""
    if isinstance(error, RunFailed):
        return error
    return RunFailed(f"{type(error).__name__}: {error}", {"traceback": traceback.format_exc()})


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step needs to know besides its claim."""

    token: str  #: of the claim; makes the ids of emitted messages unique, and the same when a run is written twice
    now_ms: int
    agents: Collection[str]  #: every agent of the job
    max_message_bytes: int


class Draft:
    """A step while it is being written.

    What was claimed is read on first use, which raises RunFailed where it is not what this package writes.
    """

    def __init__(self, node: PlannedNode, claim: Claim, context: StepContext) -> None:
        self.node = node
        self.claim = claim
        self.context = context
        self.stamp = iso(context.now_ms)
        self._step = Step(claim.agent_id)
        self._bytes = self._most_bytes = 0  #: of what is sent, and the most that it may come to
        self._taken = len(claim.mail)

    @cached_property
    def state(self) -> dict[str, Any]:
        """The agent's state, to be changed in place."""
        try:
            found = decode(self.claim.state or b"{}")
        except ValueError as error:
            raise RunFailed(f"the agent's state cannot be read: {error}", _text(self.claim.state)) from None
        if not isinstance(found, dict):
            raise RunFailed("the agent's state cannot be read: it is no object", _text(self.claim.state))
        return found

    @cached_property
    def _mail(self) -> list[Message]:
        found: list[Message] = []
        for raw in self.claim.mail:
            try:
                found.append(Message.parse(raw))
            except ValueError as error:
                where = f"message {len(found) + 1} of the mailbox"
                raise RunFailed(f"{where} cannot be read: {error}", _text(raw)) from None
        return found

    @cached_property
    def messages(self) -> list[Message]:
        """The claimed messages that have not expired."""
        return [message for message in self._mail if not message.expired(self.context.now_ms)]

    def until_full(self) -> Iterator[Message]:
        """The messages in turn, until what they led to is as much as one commit should carry; the rest is left."""
        for number, message in enumerate(self._mail):
            if len(self._step.outgoing) >= FULL_MESSAGES or self._bytes >= FULL_BYTES:
                self._taken = number
                return
            if not message.expired(self.context.now_ms):
                yield message

    def apply(self, cause: Message, actions: Sequence[Action]) -> None:
        """Carry out *actions*, which *cause* led to. Raises RunFailed."""
        sent, told = len(self._step.outgoing), len(self._step.events)
        self._most_bytes = self._bytes + MOST_BYTES
        for action in actions:
            try:
                match action:
                    case Emit():
                        self._emit(cause, action)
                    case Record():
                        self._sized(action.type.encode(), "the type of an event")
                        self.record(action.type, action.payload)
                    case Complete():
                        self.complete(action.output)
            except ValueError as error:  # JSON cannot say it
                named = f" {action.type!r}" if isinstance(action, Emit | Record) else ""
                raise RunFailed(f"{type(action).__name__.lower()}{named}: {error}") from None
            if len(self._step.outgoing) - sent > MOST_OUTGOING:
                raise RunFailed(f"the run emits more than {MOST_OUTGOING} messages")
            if len(self._step.events) - told > MOST_OUTGOING:
                raise RunFailed(f"the run records more than {MOST_OUTGOING} events")

    def record(self, kind: str, payload: Any = None) -> None:
        text = b"" if payload is None else self._sized(encode(payload), f"payload of event {kind!r}")
        self._step.events.append((kind, text))

    def complete(self, output: Any) -> None:
        """End the job as completed, unless this run has done so already."""
        if self._step.end is None:
            result = encode({"agent_id": self.node.node_id, "output": output})
            summary = encode({"agent_id": self.node.node_id})
            self._step.end = JobEnd(JobStatus.COMPLETED, self._sized(result, "the job's output"), summary)

    def _emit(self, cause: Message, action: Emit) -> None:
        sender = self.node.node_id
        message = respond(cause, action.fields, sender=sender, type=action.type, body=action.body, timestamp=self.stamp)
        if action.to is None:
            targets = self._route(message)
        elif action.to in self.context.agents:
            targets = [action.to]
        else:
            self._dead(message, action.to)
            return
        if not self.node.out_degree:
            self._step.output = self._sized(encode(action.body), f"the body of {action.type!r}")
        if not targets:
            self._sized(encode(action.body), f"the body of {action.type!r}")
            self._unrouted(action)
        envelope = message["envelope"]
        for target in targets:
            envelope["message_id"] = f"{self.context.token}:{sender}:{len(self._step.outgoing)}"
            envelope["to"] = target
            text = self._sized(encode(message), f"message to {target!r}")
            self._bytes += len(text)
            if self._bytes > self._most_bytes:
                raise RunFailed(f"the run emits more than {MOST_BYTES} bytes of messages")
            self._step.outgoing.append((target, text))

    def _dead(self, message: dict[str, Any], to: str) -> None:
        """Keep a message to an agent that is not there."""
        name = f"{self.context.token}:{self.node.node_id}:dead-{len(self._step.dead)}"
        message["envelope"] |= {"message_id": name, "to": to}
        reason = f"no agent {to!r}"
        self._step.dead.append(DeadLetterDraft(name, to, reason, self._sized(encode(message), f"message to {to!r}")))
        self.record(
            EventType.DEAD_LETTER,
            {"reason": reason, "to": to, "type": message["envelope"]["type"], "message_id": name},
        )

    def _sized(self, text: bytes, what: str) -> bytes:
        if len(text) > self.context.max_message_bytes:
            cap = f"MIRROR_NEURON_MAX_MESSAGE_BYTES ({self.context.max_message_bytes} bytes)"
            raise RunFailed(f"{what} has {len(text)} bytes, which is over {cap}")
        return text

    def _unrouted(self, action: Emit) -> None:
        """Count an unrouted message; a default type of the runtime (`DefaultEmit`) without an edge makes no event."""
        self.state["unrouted"] = self.state.get("unrouted", 0) + 1
        if not isinstance(action, DefaultEmit) or self.node.edges_for(action.type):
            self.record(EventType.MESSAGE_UNROUTED, {"type": action.type})

    def _route(self, message: Mapping[str, Any]) -> list[str]:
        """Who gets *message*: every broadcast edge that holds, the first of first_match, one of round_robin in turn."""
        edges = self.node.edges_for(message["envelope"]["type"])
        targets: list[str] = []
        in_turn: list[PlannedEdge] = []
        matched = False
        for edge in edges:
            if edge.mode == RoutingMode.FIRST_MATCH and matched:
                continue
            if edge.condition is not None and not self._holds(edge, message):
                continue
            if edge.mode == RoutingMode.ROUND_ROBIN:
                in_turn.append(edge)
            else:
                matched = matched or edge.mode == RoutingMode.FIRST_MATCH
                targets.append(edge.to)
        if in_turn:
            targets.append(self._in_turn(in_turn).to)
        return targets

    def _in_turn(self, edges: Sequence[PlannedEdge]) -> PlannedEdge:
        """One of *edges*. Each set that competes has a counter of its own, under the place of its first edge: one for
        all would give sets that take turns the same edges for ever.
        """
        turns: dict[str, int] = self.state.setdefault("round_robin", {})
        name = str(edges[0].position)
        turns[name] = turns.get(name, 0) + 1
        return edges[(turns[name] - 1) % len(edges)]

    def _holds(self, edge: PlannedEdge, message: Mapping[str, Any]) -> bool:
        assert edge.condition is not None
        try:
            return holds(edge.condition, message)
        except ValueError as error:
            raise RunFailed(f"the condition of the edge to {edge.to!r} failed: {error}") from None

    def consumed(self) -> Step:
        """The step that consumed what was claimed, or as much of it as `until_full` gave."""
        step, claim = self._step, self.claim
        step.consumed = self._taken
        for raw, message in zip(claim.mail, self._mail[: self._taken], strict=False):
            if message.expired(self.context.now_ms):
                self.record(EventType.MESSAGE_EXPIRED, _brief(message))
                reason = f"expired: older than its ttl_ms ({message.envelope['ttl_ms']})"
                step.dead.append(DeadLetterDraft(message.id, self.node.node_id, reason, raw))
            else:
                step.last = raw
        step.processed = claim.processed + step.consumed
        self._count_template(step.consumed)
        state = self._state()
        step.state = self._sized(state, "the agent's state") if state != claim.state else b""
        if self.node.threshold is not None and step.threshold is None:
            step.threshold = self.node.threshold
        return step

    def _state(self) -> bytes:
        try:
            return encode(self.state) if self.state else b""
        except ValueError as error:  # JSON cannot say it, or nests it too deeply
            raise RunFailed(f"the agent's state: {error}") from None

    def forget_changes(self) -> None:
        """Go back to the state that was claimed: a failed run changes nothing."""
        vars(self).pop("state", None)

    def wait_for(self, threshold: int) -> None:
        """Let the agent be ready again only when *threshold* messages are in."""
        self._step.threshold = threshold

    def retry_later(
        self, delay_ms: int, *, attempts: int, error: str = "", events: Sequence[tuple[str, Any]] = ()
    ) -> Step:
        """A step that consumes nothing and has the same mail run once more after *delay_ms*."""
        return Step(
            self.claim.agent_id,
            processed=self.claim.processed,
            state=encode(self.state) if self.state else b"",
            attempts=attempts,
            delay_ms=delay_ms,
            error=printable(error),
            events=[(kind, encode_anyhow(payload)) for kind, payload in events],
        )

    def failed(self, error: str, details: Mapping[str, Any], events: Sequence[tuple[str, Any]] = ()) -> Step:
        """A step that fails the job: the mail stays for a retry, and nothing that the run emitted is sent."""
        summary = {"agent_id": self.node.node_id, "error": error}
        return Step(
            self.claim.agent_id,
            processed=self.claim.processed,
            attempts=self.claim.attempts + 1,
            error=printable(error),
            events=[(kind, encode_anyhow(payload)) for kind, payload in events],
            end=JobEnd(
                JobStatus.FAILED,
                result_of(self.node.node_id, error, dict(details), self.context.max_message_bytes),
                encode_anyhow(summary),
            ),
        )

    def _count_template(self, consumed: int) -> None:
        state = self.state
        match self.node.template:
            case Template.MAP | Template.REDUCE:
                state["processed"] = state.get("processed", 0) + consumed
            case Template.STREAM:
                items = sum(len(m.body) if isinstance(m.body, list) else 1 for m in self._mail[:consumed])
                state["chunks_received"] = state.get("chunks_received", 0) + consumed
                state["items_seen"] = state.get("items_seen", 0) + items
            case Template.BATCH:
                state["batch_size"] = self.node.batch_max
                state["flushed_batches"] = state.get("flushed_batches", 0) + (1 if consumed else 0)
            case _:
                pass


def _text(raw: bytes) -> dict[str, str]:
    return {"text": raw.decode("utf-8", "replace")}


class DefaultEmit(Emit):
    """An emission of a type that the node never declared: a default of the runtime, not a wish of the author."""

    __slots__ = ()


def received(draft: Draft, messages: Sequence[Message]) -> None:
    """Record what the agent took in: one event a commit, however many messages."""
    if messages:
        draft.record(EventType.AGENT_MESSAGE_RECEIVED, {**_brief(messages[0]), "count": len(messages)})


def _brief(message: Message) -> dict[str, Any]:
    return {"message_id": message.id, "type": message.type, "from": message.sender}
