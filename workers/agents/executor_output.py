"""The answer of an executor's command: what it asks for: emits, events, a next state, completion."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from mirrorneuron.agent import Action, Complete, Emit, Record
from mirrorneuron.bundle.exact_json import duplicate_keys
from mirrorneuron.message import EMIT_FIELDS, check_emit_fields, decode

OCTETS: Final = "application/octet-stream"
_BODIES: Final = ("body", "payload", "body_base64")


class Unset(Enum):
    """The type of `UNSET`, which stands for an absent value; null is a value."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command asks for."""

    actions: list[Action]  #: events, then emits, then the completion
    next_state: Any  #: JSON value, or UNSET
    complete_default: bool  #: complete the job with the executor's default output body


def parse_answer(text: str) -> Answer:
    """Parse an answer, a JSON object.

    A null value counts as an absent key, except for `next_state`. `complete_job` takes precedence over `complete_job?`.
    Raises ValueError, with the place on one line, if the answer is malformed.
    Source: MirrorNeuron (Elixir) lib/mirror_neuron/builtins/executor.ex, which skips malformed entries silently.
    """
    found = decode(text)
    for path in duplicate_keys(text):
        raise ValueError(f"{path}: duplicate key")
    actions: list[Action] = [Record(entry["type"], entry.get("payload")) for entry, _ in _entries(found, "events")]
    actions += [_emit(entry, where) for entry, where in _entries(found, "emit_messages")]
    by_default = found.get("complete_job?")
    if not isinstance(by_default, bool | None):
        raise ValueError("complete_job?: must be true or false")
    output = found.get("complete_job")
    if output is not None:
        actions.append(Complete(output))
    return Answer(actions, found.get("next_state", UNSET), bool(by_default) and output is None)


def _entries(found: Mapping[str, Any], key: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each entry of the list under *key* and its place, such as `events[2]`. Raises ValueError."""
    entries = found.get(key)
    if not isinstance(entries, list | None):
        raise ValueError(f"{key}: must be a list")
    for number, entry in enumerate(entries or []):
        where = f"{key}[{number}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: must be an object")
        if not isinstance(entry.get("type"), str) or not entry["type"]:
            raise ValueError(f"{where}.type: must be a non-empty string")
        yield entry, where


def _emit(entry: Mapping[str, Any], where: str) -> Emit:
    to = entry.get("to")
    if not isinstance(to, str | None) or to == "":
        raise ValueError(f"{where}.to: must be an agent id")
    # Other keys are ignored, like unknown keys in a manifest.
    fields = {name: value for name, value in entry.items() if name in EMIT_FIELDS}
    for name, value in fields.items():
        try:
            check_emit_fields({name: value})
        except ValueError as error:
            raise ValueError(f"{where}.{name}: {error}") from None
    given = [name for name in _BODIES if name in entry]
    if len(given) > 1:
        raise ValueError(f"{where}: has {' and '.join(given)}; give only one of them")
    if given != ["body_base64"]:
        return Emit(entry["type"], entry[given[0]] if given else {}, to, fields)
    if fields.get("content_type") is None:
        fields["content_type"] = OCTETS
    return Emit(entry["type"], _base64(entry["body_base64"], where), to, fields)


def _base64(value: Any, where: str) -> str:
    """*value* without the line breaks that the `base64` command inserts. Raises ValueError if it is not base64."""
    text = "".join(value.split()) if isinstance(value, str) else None
    try:
        if text is None:
            raise ValueError("not a string")
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{where}.body_base64: must be a base64 string") from None
    return text
