"""What an executor's command asks for by printing a JSON object: emits, events, its next state, the end of the job."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from mirrorneuron.agent import Action, Complete, Emit, Record
from mirrorneuron.message import EMIT_FIELDS, check_emit_fields, decode

OCTETS: Final = "application/octet-stream"
_KEYS: Final = frozenset({"emit_messages", "events", "next_state", "complete_job", "complete_job?"})
#: Text that begins as an object and holds one of these is meant as structured output, whatever else it is. `events` is
#: too common a word for that where it is not the first key.
_MEANT: Final = re.compile(r"""["'](emit_messages|next_state|complete_job\??)["']|\A\s*\{\s*["'](events)["']""")
_BODIES: Final = ("body", "payload", "body_base64")


class Unset(Enum):
    """The type of `UNSET`: no value was given, which is not the value null."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    actions: list[Action]  #: events, then emits, then the completion
    next_state: Any  #: JSON, or UNSET
    complete_default: bool  #: end the job with the executor's own output body


def parse_output(stdout: str) -> StructuredOutput | None:
    """Read structured output; None for plain output: text, or an object with none of the five keys.

    A key whose value is null counts as not given, but for `next_state`. `complete_job` goes before `complete_job?`.
    Raises ValueError, in one line that says where, if an object has one of the keys and is malformed, or is no JSON.
    Source: MirrorNeuron (Elixir) lib/mirror_neuron/builtins/executor.ex; what is malformed was skipped silently there.
    """
    if not stdout.lstrip().startswith("{"):
        return None
    try:
        found = decode(stdout)
    except ValueError as error:
        if key := asks_for(stdout):
            raise ValueError(f"holds {key}, but is no JSON: {error}") from None
        return None
    if not isinstance(found, dict) or _KEYS.isdisjoint(found):
        return None
    actions: list[Action] = [Record(entry["type"], entry.get("payload")) for entry, _ in _entries(found, "events")]
    actions += [_emit(entry, where) for entry, where in _entries(found, "emit_messages")]
    by_default = found.get("complete_job?")
    if not isinstance(by_default, bool | None):
        raise ValueError("complete_job?: must be true or false")
    output = found.get("complete_job")
    if output is not None:
        actions.append(Complete(output))
    return StructuredOutput(actions, found.get("next_state", UNSET), bool(by_default) and output is None)


def asks_for(stdout: str) -> str:
    """The key for which output that cannot be read was meant as structured output; "" if it was not."""
    found = _MEANT.search(stdout) if stdout.lstrip().startswith("{") else None
    return found[1] or found[2] if found else ""


def _entries(found: Mapping[str, Any], key: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    entries = found.get(key)
    if not isinstance(entries, list | None):
        raise ValueError(f"{key}: must be a list")
    for number, entry in enumerate(entries or []):
        where = f"{key}[{number}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: must be an object")
        if not isinstance(entry.get("type"), str) or not entry["type"]:
            raise ValueError(f"{where}.type: must be a string that is not empty")
        yield entry, where


def _emit(entry: Mapping[str, Any], where: str) -> Emit:
    to = entry.get("to")
    if not isinstance(to, str | None) or to == "":
        raise ValueError(f"{where}.to: must be the id of an agent")
    # Keys that no agent can set are passed over, as unknown keys are in a manifest.
    fields = {name: value for name, value in entry.items() if name in EMIT_FIELDS}
    for name, value in fields.items():
        try:
            check_emit_fields({name: value})
        except ValueError as error:
            raise ValueError(f"{where}.{name}: {error}") from None
    given = [name for name in _BODIES if name in entry]
    if len(given) > 1:
        raise ValueError(f"{where}: has {' and '.join(given)}, but can have one body only")
    if given != ["body_base64"]:
        return Emit(entry["type"], entry[given[0]] if given else {}, to, fields)
    if fields.get("content_type") is None:
        fields["content_type"] = OCTETS
    return Emit(entry["type"], _base64(entry["body_base64"], where), to, fields)


def _base64(value: Any, where: str) -> str:
    """*value* without the line breaks that `base64` puts in. Raises ValueError unless it can be decoded."""
    text = "".join(value.split()) if isinstance(value, str) else None
    try:
        if text is None:
            raise ValueError("not a string")
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{where}.body_base64: must be a string in base64") from None
    return text
