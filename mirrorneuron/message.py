"""Messages, `mn-msg/1`: reads them, makes the initial ones, and makes those that an agent emits.

A message is sent and stored as JSON bytes; agents get it as a read-only `Message`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json, to_json

from mirrorneuron.job import is_time, ms_of

SPEC_VERSION: Final = "mn-msg/1"
SENDER_OF_SEEDS: Final = "runtime"
DEFAULT_PRIORITY: Final = 100
JSON_TYPE: Final = "application/json"
IDENTITY: Final = "identity"
GZIP: Final = "gzip"
ENCODINGS: Final = (IDENTITY, GZIP)  # of the file that holds a message's body
SAFE_DEPTH: Final = 150  # nesting levels that the parser always reads; its limit is 200

_STRINGS: Final = (  # envelope fields of type string, in the order in which an envelope is written
    "message_id",
    "from",
    "type",
    "class",
    "timestamp",
    "correlation_id",
    "causation_id",
    "content_type",
    "content_encoding",
)
_NUMBERS: Final = ("attempt", "priority", "ttl_ms")
_PARTS: Final[dict[str, tuple[type, ...]]] = {
    "headers": (Mapping,),
    "artifacts": (list,),
    "stream": (Mapping, type(None)),
}
#: part or envelope field -> type and meaning, in Markdown, for the manifest reference; a test checks for missing ones
PART_EFFECTS: Final[dict[str, tuple[str, str]]] = {
    "envelope": ("object", "The fields of the next table; a field without a value is left out."),
    "headers": ("object", "Free for the agents' use; an emitted message inherits them, merged with its own."),
    "body": ("any JSON value", "Content of the message."),
    "artifacts": ("list", "Free for the agents' use; inherited by emitted messages."),
    "stream": ("object or `null`", "Free for the agents' use; inherited by emitted messages."),
}
ENVELOPE_EFFECTS: Final[dict[str, tuple[str, str]]] = {
    "spec_version": ("string", f"Always `{SPEC_VERSION}`; set by the runtime."),
    "message_id": ("string", "Id of the message, unique in the job."),
    "job_id": ("string", "Id of the job; set by the runtime."),
    "from": ("string", f"Id of the agent that sent the message, or `{SENDER_OF_SEEDS}`."),
    "to": ("string", "Id of the agent that receives the message; set by the runtime."),
    "type": ("string", "Type of the message, which edges match; `init` for initial inputs."),
    "class": ("string", "`event`, or `command` for initial inputs."),
    "timestamp": ("string", "Time of sending, ISO 8601."),
    "correlation_id": ("string", "Inherited by emitted messages."),
    "causation_id": ("string", "Id of the message that caused this one."),
    "attempt": ("number", "`1`; a retried run sees it raised by its failed attempts."),
    "priority": ("number", f"`{DEFAULT_PRIORITY}` by default; not used by the runtime."),
    "ttl_ms": ("number of milliseconds", "A message older than this is dropped, with an event and a dead letter."),
    "content_type": ("string", f"`{JSON_TYPE}` by default; inherited by emitted messages."),
    "content_encoding": ("string", f"`{IDENTITY}` by default; inherited by emitted messages."),
}
_NEEDED: Final = ("message_id", "job_id", "from", "type")  # fields that every envelope must have
_INVALID: Final = "invalid message: it must be an object with envelope, headers, body, artifacts and stream"
EMIT_FIELDS: Final = frozenset({*_STRINGS, *_NUMBERS, *_PARTS} - {"message_id", "from", "type", "timestamp"})


def encode(value: Any) -> bytes:
    """JSON bytes of *value*. Raises ValueError for values that JSON cannot represent, such as NaN and Infinity."""
    text: bytes = to_json(value, inf_nan_mode="constants")
    # The text may contain NaN (perhaps only in a string) or nest too deeply to be read back: parse it to find out.
    if b"NaN" in text or b"Infinity" in text or text.count(b"[") + text.count(b"{") > SAFE_DEPTH:
        try:
            from_json(text, allow_inf_nan=False)
        except ValueError as error:
            known = "NaN and Infinity are not valid JSON: " if "expected value" in str(error) else ""
            raise ValueError(f"{known}{error}") from None
    return text


def decode(text: bytes | str) -> Any:
    """Parse JSON *text*. Raises ValueError with line and column."""
    return from_json(text, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as an agent gets it; `body` is any JSON value."""

    envelope: Mapping[str, Any]
    body: Any
    headers: Mapping[str, Any]
    artifacts: list[Any]
    stream: Mapping[str, Any] | None

    @classmethod
    def parse(cls, raw: bytes) -> Message:
        """Read a message that this package wrote. Raises ValueError for any other bytes."""
        parts = decode(raw)
        try:
            found = cls(parts["envelope"], parts["body"], parts["headers"], parts["artifacts"], parts["stream"])
        except (KeyError, TypeError):  # a part is missing, or `parts` is not an object
            raise ValueError(_INVALID) from None
        objects = isinstance(found.envelope, dict) and isinstance(found.headers, dict)
        stream = found.stream is None or isinstance(found.stream, dict)
        if not (objects and stream and isinstance(found.artifacts, list)):
            raise ValueError(_INVALID)
        if not all(isinstance(found.envelope.get(name), str) for name in _NEEDED):
            raise ValueError(f"invalid message: its envelope must have {', '.join(_NEEDED)}, each a string")
        if not isinstance(found.envelope.get("ttl_ms"), int | float | None):
            raise ValueError("invalid message: its ttl_ms must be a number")
        return found

    @property
    def id(self) -> str:
        return str(self.envelope["message_id"])

    @property
    def type(self) -> str:
        return str(self.envelope["type"])

    @property
    def sender(self) -> str:
        return str(self.envelope["from"])

    def as_dict(self) -> dict[str, Any]:
        return {
            "envelope": self.envelope,
            "headers": self.headers,
            "body": self.body,
            "artifacts": self.artifacts,
            "stream": self.stream,
        }

    def expired(self, now_ms: int) -> bool:
        """True if the message is older than its `ttl_ms`. A message with an unreadable timestamp never expires."""
        ttl_ms = self.envelope.get("ttl_ms")
        if ttl_ms is None:
            return False
        try:
            return bool(now_ms > ms_of(str(self.envelope["timestamp"])) + ttl_ms)
        except (KeyError, ValueError):
            return False


def seed(payload: Any, *, job_id: str, to: str, message_id: str, timestamp: str) -> dict[str, Any]:
    """Make the message for one payload of `initial_inputs` or `send_message`, addressed to agent *to*.

    A payload with the key `envelope` is a full message. Otherwise its keys that are envelope fields, `headers`,
    `artifacts`, `stream` and `body` (or `payload`) become those parts; without `body` and `payload` the other keys
    become the body. Raises ValueError if one of them has the wrong type.
    """
    given: dict[str, Any]
    if isinstance(payload, Mapping) and "envelope" in payload:
        if not isinstance(payload["envelope"], Mapping):
            raise ValueError("envelope must be an object")
        given = {**payload["envelope"], **{k: v for k, v in payload.items() if k != "envelope"}}
        body = given.pop("body", given.pop("payload", {}))
    elif isinstance(payload, Mapping):
        given = {k: v for k, v in payload.items() if k in _STRINGS or k in _NUMBERS or k in _PARTS}
        rest = {k: v for k, v in payload.items() if k not in given}
        body = rest["body"] if "body" in rest else rest.get("payload", rest)
    else:
        given, body = {}, payload
    _check(given)
    envelope = {
        "spec_version": SPEC_VERSION,
        "message_id": message_id,
        "job_id": job_id,
        "from": SENDER_OF_SEEDS,
        "to": to,
        "type": "init",
        "class": "command",
        "timestamp": timestamp,
        "attempt": 1,
        "priority": DEFAULT_PRIORITY,
        "content_type": JSON_TYPE,
        "content_encoding": IDENTITY,
    }
    envelope |= {k: given[k] for k in (*_STRINGS, *_NUMBERS) if given.get(k) is not None}
    return {
        "envelope": envelope,
        "headers": given.get("headers") or {},
        "body": body,
        "artifacts": given.get("artifacts") or [],
        "stream": given.get("stream"),
    }


def check_emit_fields(fields: Mapping[str, Any]) -> None:
    """Raise ValueError unless every name in *fields* is a field that an agent may set and every value has its type."""
    for name in fields:
        if name not in EMIT_FIELDS:
            raise ValueError(f"{name!r} is not a message field that an agent can set")
    _check(fields)


def _check(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if value is None:
            continue
        if name in _STRINGS and not isinstance(value, str):
            raise ValueError(f"{name} must be a string, not {type(value).__name__}")
        if name in _NEEDED and not value:
            raise ValueError(f"{name} must not be empty")
        if name in _NUMBERS and (not isinstance(value, int | float) or isinstance(value, bool) or not _natural(value)):
            raise ValueError(f"{name} must be a number of 0 or more")
        if name == "timestamp" and not is_time(value):
            raise ValueError("timestamp must be an ISO 8601 time, like 2026-01-31T12:00:00Z")
        if name in _PARTS and not isinstance(value, _PARTS[name]):
            raise ValueError(f"{name} must be {'a list' if name == 'artifacts' else 'an object'}")


def _natural(value: float) -> bool:
    return 0 <= value <= sys.float_info.max  # a larger integer could not be added to a timestamp


def respond(
    cause: Message,
    fields: Mapping[str, Any],
    *,
    sender: str,
    type: str,
    body: Any,
    timestamp: str,
) -> dict[str, Any]:
    """Make the message that an agent emits while it handles *cause*; `message_id` and `to` are left empty.

    The message inherits correlation id, headers (merged), artifacts, stream, content type and encoding from *cause*,
    unless *fields* (checked by `check_emit_fields`) set them. Its causation id is the id of *cause*.
    """
    old = cause.envelope
    envelope = {
        "spec_version": SPEC_VERSION,
        "message_id": "",
        "job_id": old["job_id"],
        "from": sender,
        "to": "",
        "type": type,
        "class": "event",
        "timestamp": timestamp,
        "causation_id": old["message_id"],
        "attempt": 1,
        "priority": DEFAULT_PRIORITY,
        "content_type": old.get("content_type", JSON_TYPE),
        "content_encoding": old.get("content_encoding", IDENTITY),
    }
    if "correlation_id" in old:
        envelope["correlation_id"] = old["correlation_id"]
    headers, artifacts, stream = cause.headers, cause.artifacts, cause.stream
    if fields:
        envelope |= {k: v for k, v in fields.items() if k not in _PARTS and v is not None}
        headers = {**headers, **(fields.get("headers") or {})}
        artifacts = fields["artifacts"] or [] if "artifacts" in fields else artifacts
        stream = fields.get("stream", stream)
    return {"envelope": envelope, "headers": headers, "body": body, "artifacts": artifacts, "stream": stream}
