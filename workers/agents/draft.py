"""Build the step of one run: the messages consumed, the messages sent, the events and the new state. No I/O.

The state of an agent is a JSON object. Its key `user` belongs to the agent (a module's state, an executor's
`next_state`). The other keys are counters of the runtime, which the snapshot shows as metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Final

from mirrorneuron.agent import Action, Complete, Emit, Record
from mirrorneuron.bundle.conditions import holds
from mirrorneuron.bundle.evaluation import Meter
from mirrorneuron.bundle.manifest import RoutingMode, Template
from mirrorneuron.bundle.plan import PlannedEdge, PlannedNode
from mirrorneuron.bundle.suggest import Suggestions
from mirrorneuron.job import EventType, JobStatus, iso
from mirrorneuron.message import Message, decode, encode, respond
from mirrorneuron.store.protocol import Claim, DeadLetterDraft, JobEnd, Step
from workers.agents.failures import RunFailed, encode_lossy, failure_result, utf8_safe

MAX_OUTGOING: Final = 100_000  # messages that the actions for one message may send; the same for events
# Bytes of these messages and events. Redis disconnects a client that sends 1 GiB at once.
MAX_OUTGOING_BYTES: Final = 256 * 1024 * 1024
FULL_MESSAGES: Final = 10_000  # outgoing messages after which light agents leave the rest of their mail for later
FULL_BYTES: Final = 16 * 1024 * 1024  # the same in bytes
FULL_STEPS: Final = 100_000  # the same in steps of conditions, about 0.1 s
SHOWN_TYPES: Final = 10  # of the edges of a node, in an error
USER: Final = "user"


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step depends on besides its claim."""

    token: str  #: of the claim; part of the ids of emitted messages: unique, and the same if a commit is repeated
    now_ms: int  #: the server's time when the run began; messages that have expired by then are not handled
    clock: Callable[[], int]  #: the server's time now (ms), which stamps emitted messages
    agents: Collection[str]  #: every agent of the job
    max_message_bytes: int
    meter: Meter = field(default_factory=Meter)  #: evaluates the conditions of edges


class Draft:
    """A step under construction.

    The claimed state and mail are parsed on first use. Data that this package cannot have written raises RunFailed.
    """

    def __init__(self, node: PlannedNode, claim: Claim, context: StepContext) -> None:
        self.node = node
        self.claim = claim
        self.context = context
        self._step = Step(claim.agent_id)
        self._bytes = 0  #: of the outgoing messages, the events and the dead letters
        self._max_bytes = MAX_OUTGOING_BYTES  #: the most to which the actions for one message may raise `_bytes`
        self._consumed = len(claim.mail)

    @cached_property
    def state(self) -> dict[str, Any]:
        """The agent's state. Changes to it are written with the step."""
        try:
            found = decode(self.claim.state or b"{}")
        except ValueError as error:
            raise RunFailed(f"the agent's stored state is not valid JSON: {error}", _raw(self.claim.state)) from None
        if not isinstance(found, dict):
            raise RunFailed("the agent's stored state is not a JSON object", _raw(self.claim.state))
        return found

    @cached_property
    def _mail(self) -> list[Message]:
        found: list[Message] = []
        for raw in self.claim.mail:
            try:
                found.append(Message.parse(raw))
            except ValueError as error:
                raise RunFailed(f"cannot parse message {len(found) + 1} of the mailbox: {error}", _raw(raw)) from None
        return found

    @cached_property
    def messages(self) -> list[Message]:
        """The claimed messages that have not expired."""
        return [message for message in self._mail if not message.expired(self.context.now_ms)]

    def until_full(self) -> Iterator[Message]:
        """Yield the unexpired messages until the step is large enough for one commit; the rest stays in the mailbox."""
        for number, message in enumerate(self._mail):
            steps = self.context.meter.spent if number else 0
            if len(self._step.outgoing) >= FULL_MESSAGES or self._bytes >= FULL_BYTES or steps >= FULL_STEPS:
                self._consumed = number
                return
            if message.expired(self.context.now_ms):
                self._bytes += len(self.claim.mail[number])  # it becomes a dead letter
            else:
                yield message

    def apply(self, cause: Message, actions: Sequence[Action]) -> None:
        """Carry out the *actions* with which the agent answered *cause*. Raises RunFailed."""
        sent, recorded = len(self._step.outgoing), len(self._step.events)
        self._max_bytes = self._bytes + MAX_OUTGOING_BYTES
        # Not the time at which the run began: a run may last longer than the `ttl_ms` of its messages.
        stamp = iso(self.context.clock())
        for action in actions:
            try:
                match action:
                    case Emit():
                        self._emit(cause, action, stamp)
                    case Record():
                        self._checked(action.type.encode(), "the type of an event")
                        self.record(action.type, action.payload)
                    case Complete():
                        self.complete(action.output)
            except ValueError as error:  # the value has no JSON form
                raise RunFailed(f"{_described(action)}: {error}", permanent=True) from None
            if len(self._step.outgoing) - sent > MAX_OUTGOING:
                raise RunFailed(f"the run emits more than {MAX_OUTGOING} messages", permanent=True)
            if len(self._step.events) - recorded > MAX_OUTGOING:
                raise RunFailed(f"the run records more than {MAX_OUTGOING} events", permanent=True)

    def record(self, kind: str, payload: Any = None) -> None:
        """Append an event to the job's history."""
        text = b"" if payload is None else self._checked(encode(payload), f"payload of event {kind!r}")
        self._add_bytes(len(kind) + len(text))
        self._step.events.append((kind, text))

    def complete(self, output: Any) -> None:
        """End the job as completed. Only the first call of a run has an effect."""
        if self._step.end is None:
            result = encode({"agent_id": self.node.node_id, "output": output})
            summary = encode({"agent_id": self.node.node_id})
            self._step.end = JobEnd(JobStatus.COMPLETED, self._checked(result, "the job's output"), summary)

    def _emit(self, cause: Message, action: Emit, stamp: str) -> None:
        sender = self.node.node_id
        message = respond(cause, action.fields, sender=sender, type=action.type, body=action.body, timestamp=stamp)
        if action.to is not None and action.to not in self.context.agents:
            raise self._unknown_agent(message, action.to)
        if action.to is None and self._is_mistyped(action):
            raise self._unknown_type(message, action.type)
        targets = self._route(message) if action.to is None else [action.to]
        if not self.node.out_degree:
            self._step.output = self._checked(encode(action.body), f"the body of {action.type!r}")
        if not targets:
            self._checked(encode(action.body), f"the body of {action.type!r}")
            self._count_unrouted(action)
        envelope = message["envelope"]
        for target in targets:
            envelope["message_id"] = f"{self.context.token}:{sender}:{len(self._step.outgoing)}"
            envelope["to"] = target
            text = self._checked(encode(message), f"message to {target!r}")
            self._add_bytes(len(text))
            self._step.outgoing.append((target, text))

    def _is_mistyped(self, action: Emit) -> bool:
        """True if no edge carries the action's type, although the author chose the type and the node has edges.

        A node without edges is the end of a graph. A `DefaultEmit` has a type that the author did not choose.
        """
        return bool(self.node.edges) and not isinstance(action, DefaultEmit) and not self.node.edges_for(action.type)

    def _unknown_agent(self, message: dict[str, Any], to: str) -> RunFailed:
        hint = Suggestions().near(to, sorted(self.context.agents)) or "use the node_id of a node of the manifest"
        error = f"emit {message['envelope']['type']!r}: no agent {to!r}; {hint}"
        return RunFailed(error, {"message": message}, permanent=True)

    def _unknown_type(self, message: dict[str, Any], kind: str) -> RunFailed:
        carried = ", ".join(islice(sorted(self.node.edges), SHOWN_TYPES))
        hint = Suggestions().near(kind, sorted(self.node.edges)) or f"its edges carry: {carried}"
        error = f"emit {kind!r}: no edge of {self.node.node_id!r} carries this type; {hint}"
        return RunFailed(error, {"message": message}, permanent=True)

    def _add_bytes(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self._max_bytes:
            error = f"the run emits and records more than {MAX_OUTGOING_BYTES} bytes of messages and events"
            raise RunFailed(error, permanent=True)

    def _checked(self, text: bytes, what: str) -> bytes:
        """Return *text*. Raises RunFailed if it is larger than a message may be; *what* names it in the error."""
        if len(text) > self.context.max_message_bytes:
            limit = f"MIRROR_NEURON_MAX_MESSAGE_BYTES ({self.context.max_message_bytes} bytes)"
            error = f"{what} has {len(text)} bytes, which exceeds {limit}; send less or raise the limit"
            raise RunFailed(error, permanent=True)
        return text

    def _count_unrouted(self, action: Emit) -> None:
        """Count a message that no edge takes. Record an event for it, unless it is a DefaultEmit without an edge."""
        self.state["unrouted"] = self.state.get("unrouted", 0) + 1
        if not isinstance(action, DefaultEmit) or self.node.edges_for(action.type):
            self.record(EventType.MESSAGE_UNROUTED, {"type": action.type})

    def _route(self, message: Mapping[str, Any]) -> list[str]:
        """The agents to which the node's edges lead *message*.

        Of the edges whose type and condition match: every `broadcast` edge, the first `first_match` edge, and the next
        `round_robin` edge in turn.
        """
        edges = self.node.edges_for(message["envelope"]["type"])
        self.context.meter.renew()
        targets: list[str] = []
        round_robin: list[PlannedEdge] = []
        matched = False
        for edge in edges:
            if edge.mode == RoutingMode.FIRST_MATCH and matched:
                continue
            if edge.condition is not None and not self._holds(edge, message):
                continue
            if edge.mode == RoutingMode.ROUND_ROBIN:
                round_robin.append(edge)
            else:
                matched = matched or edge.mode == RoutingMode.FIRST_MATCH
                targets.append(edge.to)
        if round_robin:
            targets.append(self._next_in_turn(round_robin).to)
        return targets

    def _next_in_turn(self, edges: Sequence[PlannedEdge]) -> PlannedEdge:
        """The next of the competing *edges*, by a counter in the agent's state.

        Each set of competing edges has its own counter, named after the position of its first edge. With one counter
        for all, two sets that alternate would get the same edges every time.
        """
        turns: dict[str, int] = self.state.setdefault("round_robin", {})
        name = str(edges[0].position)
        turns[name] = turns.get(name, 0) + 1
        return edges[(turns[name] - 1) % len(edges)]

    def _holds(self, edge: PlannedEdge, message: Mapping[str, Any]) -> bool:
        assert edge.condition is not None
        try:
            return holds(edge.condition, message, self.context.meter)
        except ValueError as error:
            where = f"{edge.to!r}: edges[{edge.position}] of {self.node.node_id!r}"
            raise RunFailed(f"cannot evaluate the condition of the edge to {where}: {error}") from None

    def consumed(self) -> Step:
        """Finish the step of a successful run: it consumes the claimed mail, or as much of it as `until_full` yielded.

        A message that has expired becomes a dead letter.
        """
        step, claim = self._step, self.claim
        step.consumed, step.consumed_bytes = self._consumed, sum(map(len, claim.mail[: self._consumed]))
        for raw, message in zip(claim.mail, self._mail[: self._consumed], strict=False):
            if message.expired(self.context.now_ms):
                self.record(EventType.MESSAGE_EXPIRED, _summary(message))
                reason = f"expired: older than its ttl_ms ({message.envelope['ttl_ms']})"
                step.dead.append(DeadLetterDraft(message.id, self.node.node_id, reason, raw))
            else:
                step.last = raw
        step.processed = claim.processed + step.consumed
        self._count_template(step.consumed)
        state = self._encoded_state()
        step.state = self._checked(state, "the agent's state") if state != claim.state else b""
        if self.node.threshold is not None and step.threshold is None:
            step.threshold = self.node.threshold
        return step

    def _encoded_state(self) -> bytes:
        try:
            return encode(self.state) if self.state else b""
        except ValueError as error:  # it has no JSON form, or is nested too deeply
            raise RunFailed(f"the agent's state cannot be written as JSON: {error}", permanent=True) from None

    def discard_changes(self) -> None:
        """Return to the claimed state, because a failed run must not change it."""
        vars(self).pop("state", None)

    def set_threshold(self, threshold: int) -> None:
        """Make the agent ready again only when its mailbox holds *threshold* messages."""
        self._step.threshold = threshold

    def retry_later(
        self, delay_ms: int, *, attempts: int, error: str = "", events: Sequence[tuple[str, Any]] = ()
    ) -> Step:
        """A step that consumes nothing. The agent runs on the same mail again after *delay_ms*."""
        return Step(
            self.claim.agent_id,
            processed=self.claim.processed,
            state=encode(self.state) if self.state else b"",
            attempts=attempts,
            delay_ms=delay_ms,
            error=utf8_safe(error),
            events=[(kind, encode_lossy(payload)) for kind, payload in events],
        )

    def failed(self, error: str, details: Mapping[str, Any], events: Sequence[tuple[str, Any]] = ()) -> Step:
        """A step that fails the job. The mail stays for a retry of the job, and no message of the run is sent."""
        summary = {"agent_id": self.node.node_id, "error": error}
        return Step(
            self.claim.agent_id,
            processed=self.claim.processed,
            attempts=self.claim.attempts + 1,
            error=utf8_safe(error),
            events=[(kind, encode_lossy(payload)) for kind, payload in events],
            end=JobEnd(
                JobStatus.FAILED,
                failure_result(self.node.node_id, error, dict(details), self.context.max_message_bytes),
                encode_lossy(summary),
            ),
        )

    def _count_template(self, consumed: int) -> None:
        """Update the counters that the node's template keeps in the state."""
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


def _described(action: Action) -> str:
    """*action* in the words of the author of an agent, for errors."""
    if isinstance(action, Complete):
        return "complete_job"
    return f"{'emit' if isinstance(action, Emit) else 'event'} {action.type!r}"


def _raw(text: bytes) -> dict[str, str]:
    """Details of a failure: the text that could not be parsed."""
    return {"text": text.decode("utf-8", "replace")}


class DefaultEmit(Emit):
    """An emit whose type is a default of the runtime, because the manifest declares none for the node."""

    __slots__ = ()


def record_received(draft: Draft, messages: Sequence[Message]) -> None:
    """Record that the agent received *messages*, in one event."""
    if messages:
        draft.record(EventType.AGENT_MESSAGE_RECEIVED, {**_summary(messages[0]), "count": len(messages)})


def _summary(message: Message) -> dict[str, Any]:
    return {"message_id": message.id, "type": message.type, "from": message.sender}
