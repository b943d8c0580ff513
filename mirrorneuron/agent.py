"""The API for authors of module agents: `Agent`, `Context`, and the actions that an agent returns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from mirrorneuron.message import Message, check_emit_fields


@dataclass(frozen=True, slots=True)
class Emit:
    """Send *body* as a message of *type* along the matching edges, or to the agent *to*."""

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
    """The operations and data of an agent that handles one message. They take effect together or not at all.

    Threads may use it until `handle` ends. Later its operations could not take effect, and raise RuntimeError.
    """

    def __init__(self, *, job_id: str, agent_id: str, config: Mapping[str, Any], payloads_path: Path | None) -> None:
        self.job_id = job_id
        self.agent_id = agent_id
        self.config = config  #: the node's `config` from the manifest
        self.payloads_path = payloads_path  #: the bundle's `payloads/` on this node, read-only by convention
        self.actions: list[Action] = []
        self._lock = Lock()
        self._ended = False

    def emit(self, type: str, body: Any, *, to: str | None = None, **message_fields: Any) -> None:
        """Send a message along the matching edges, or directly to the agent *to*.

        *message_fields* are envelope fields (`correlation_id`, `ttl_ms`, ...), `headers`, `artifacts` and `stream`.
        Correlation id, headers, artifacts, stream, content type and encoding are inherited from the handled message
        unless they are given. The body is copied: later changes to it do not change the message. Raises ValueError for
        an unknown field.
        """
        if not isinstance(type, str) or not type:
            raise ValueError("the type of a message must be a string that is not empty")
        if "class_" in message_fields:  # `class` is a Python keyword
            message_fields["class"] = message_fields.pop("class_")
        check_emit_fields(message_fields)
        self._add(Emit(type, _snapshot(body), to, _snapshot(message_fields)), f"emit of {type!r}")

    def event(self, type: str, payload: Any = None) -> None:
        """Append an event to the job's log."""
        if not isinstance(type, str) or not type:
            raise ValueError("the type of an event must be a string that is not empty")
        self._add(Record(type, _snapshot(payload)), f"event {type!r}")

    def complete_job(self, output: Any) -> None:
        """End the job as completed with *output* (JSON). The first completion of a job wins."""
        self._add(Complete(_snapshot(output)), "complete_job")

    def _add(self, action: Action, what: str) -> None:
        """Raises RuntimeError if `handle` has ended, and logs it, because a thread may swallow the exception."""
        with self._lock:
            if not self._ended:
                self.actions.append(action)
                return
        error = f"{what} by {self.agent_id!r} after handle has ended: lost; handle must wait for its threads and tasks"
        logging.getLogger("mirrorneuron").error("%s (job %s)", error, self.job_id)
        raise RuntimeError(error)

    def _end(self) -> list[Action]:
        """Return the actions. From now on each call that would add one is an error."""
        with self._lock:
            self._ended = True
            return self.actions


def _snapshot(value: Any) -> Any:
    """A deep copy of *value*. A value that JSON cannot represent is not copied; the commit reports it."""
    try:
        return _deep_copy(value)
    except RecursionError:
        return value


def _deep_copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _deep_copy(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_deep_copy(item) for item in value]
    return value


class Agent:
    """Base class of module agents.

    For each message the runtime makes one instance, sets `state` (a dict of JSON values, `{}` at first) and calls
    `handle`. It then commits `state` together with the actions of the context. An exception fails the run: then neither
    the state nor any action takes effect.
    """

    state: dict[str, Any]

    def handle(self, message: Message, context: Context) -> None:
        """Handle *message*: change `self.state` and call methods of *context*."""
        raise NotImplementedError
