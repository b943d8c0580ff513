"""What authors of module agents write against: `Agent`, its `Context`, and the actions an agent answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirrorneuron.message import Message, check_emit_fields


@dataclass(frozen=True, slots=True)
class Emit:
    """Send *body* as a message of *type* along the node's edges, or to one agent."""

    type: str
    body: Any
    to: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)  #: further message fields: headers, stream, class, ...


@dataclass(frozen=True, slots=True)
class Record:
    """Append an event to the job's log."""

    type: str
    payload: Any = None


@dataclass(frozen=True, slots=True)
class Complete:
    """End the job as completed with *output*."""

    output: Any


Action = Emit | Record | Complete


class Context:
    """What an agent may do and know while it handles one message. Its acts take effect together, or not at all."""

    def __init__(self, *, job_id: str, agent_id: str, config: Mapping[str, Any], payloads_path: Path | None) -> None:
        self.job_id = job_id
        self.agent_id = agent_id
        self.config = config  #: the node's `config` from the manifest
        self.payloads_path = payloads_path  #: the bundle's `payloads/` on this node, read-only by convention
        self.actions: list[Action] = []

    def emit(self, type: str, body: Any, *, to: str | None = None, **message_fields: Any) -> None:
        """Send a message along every matching edge, or straight to agent *to*.

        *message_fields* are envelope fields (`correlation_id`, `ttl_ms`, ...), `headers`, `artifacts` and `stream`;
        what is not given is inherited from the message that is being handled. The body is taken as it is now: what is
        changed later does not change the message. Raises ValueError for an unknown field.
        """
        if not isinstance(type, str) or not type:
            raise ValueError("the type of a message is a string that is not empty")
        if "class_" in message_fields:  # `class` is a keyword of Python
            message_fields["class"] = message_fields.pop("class_")
        check_emit_fields(message_fields)
        self.actions.append(Emit(type, _as_now(body), to, _as_now(message_fields)))

    def event(self, type: str, payload: Any = None) -> None:
        """Append an event to the job's log."""
        if not isinstance(type, str) or not type:
            raise ValueError("the type of an event is a string that is not empty")
        self.actions.append(Record(type, _as_now(payload)))

    def complete_job(self, output: Any) -> None:
        """End the job as completed with *output* (JSON). The first completion of a job wins."""
        self.actions.append(Complete(_as_now(output)))


def _as_now(value: Any) -> Any:
    """*value* with containers that nobody else holds. What JSON cannot say stays as it is, and is told of later."""
    try:
        return _copied(value)
    except RecursionError:
        return value


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


class Agent:
    """Base class of module agents.

    The runtime makes one instance a message, sets `state` (a dict of JSON values, `{}` at first), calls `handle`, and
    persists `state` together with what the context collected. An exception fails the run; nothing of it takes effect.
    """

    state: dict[str, Any]

    def handle(self, message: Message, context: Context) -> None:
        """Answer *message* by changing `self.state` and calling *context*."""
        raise NotImplementedError
