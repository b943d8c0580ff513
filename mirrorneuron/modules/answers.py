"""What a module agent answers a message with, as JSON: its state and actions, or its error."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from mirrorneuron.agent import Action, Complete, Emit, Record
from mirrorneuron.message import encode

_MAX_DEPTH: Final = 190  #: the JSON parser reads 200 levels, of which the message around a body takes some
_FRAMES: Final = 60
_SCALARS: Final = frozenset({str, int, bool, type(None)})
_HERE: Final = os.path.dirname(__file__)


class Refusal(Exception):
    """The bundle's code did something invalid. The text explains it without a traceback."""


class ImportFailed(Exception):
    """The bundle's module cannot be imported; its cause is what the import raised."""


def reject_returned(returned: object, name: str) -> None:
    """Raise Refusal for a value that `handle` returned: the author expects an effect that it does not have."""
    if returned is None:
        return
    if hasattr(returned, "__await__") or isinstance(returned, Generator | AsyncGenerator):
        with suppress(Exception):
            returned.close()  # type: ignore[attr-defined]  # otherwise Python warns that it was never awaited
        if isinstance(returned, Generator):
            raise Refusal(f"{name} is a generator, which is not supported; send each message with context.emit")
        hint = "make it a plain method, which may call asyncio.run"
        raise Refusal(f"{name} is a coroutine function (async def), which is not supported yet; {hint}")
    hint = "use context.emit to send a message, or context.complete_job for the job's output"
    raise Refusal(f"{name} returned a value of type {type(returned).__name__}, which has no effect; {hint}")


def success(state: object, actions: list[Action]) -> bytes:
    if not isinstance(state, dict):
        raise Refusal(f"state must be a dict of JSON values, not {type(state).__name__}")
    _check(state, "state")
    packed = [_pack(action) for action in actions]
    try:
        return encode({"state": state, "actions": packed})
    except ValueError as error:
        raise Refusal(f"state or actions are not valid JSON: {error}") from None


def _pack(action: object) -> list[Any]:
    match action:
        case Emit(type, body, to, fields):
            if to is not None and not isinstance(to, str):
                raise Refusal(f"emit of {type!r}: `to` must be the id of an agent, not {to!r:.80}")
            _check(body, f"body of {type!r}")
            _check(dict(fields), f"message fields of {type!r}")
            return ["emit", type, body, to, dict(fields)]
        case Record(type, payload):
            _check(payload, f"payload of event {type!r}")
            return ["event", type, payload]
        case Complete(output):
            _check(output, "output of the job")
            return ["complete", output]
    raise Refusal(f"{action!r:.80} is not an action: use emit, event and complete_job of the context")


def _check(value: object, where: object, depth: int = 0) -> None:
    """Raise Refusal for values that JSON would change: tuples, sets, dates, bytes, NaN, keys that are not strings.

    The encoder would write most of them as another type, which the agent would find in its next state. *where* is a
    name, or a pair of the outer *where* and a key: the text is made only for an error.
    """
    if isinstance(value, dict | list):
        if depth > _MAX_DEPTH:
            raise Refusal(f"{_path(where)[:60]}... is nested too deeply or contains itself")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise Refusal(f"{_path(where)} has the key {key!r:.80}; keys of JSON objects must be strings")
        for place, item in value.items() if isinstance(value, dict) else enumerate(value):
            kind = type(item)  # one call per item would take a second for a million numbers
            if kind not in _SCALARS and not (kind is float and math.isfinite(item)):
                _check(item, (where, place), depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Refusal(f"{_path(where)} is {value}, which JSON cannot represent")
    elif value is not None and not isinstance(value, str | int):
        hint = "; use a list" if isinstance(value, tuple) else ""
        raise Refusal(f"{_path(where)} is of type {type(value).__name__}, which is not a JSON value{hint}")


def _path(where: object) -> str:
    keys: list[str] = []
    while isinstance(where, tuple):
        where, key = where
        keys.append(f"[{key!r:.80}]")
    return f"{where}{''.join(reversed(keys))}"[:200]


def failure(error: str, trace: str, *, permanent: bool = False) -> bytes:
    def clean(text: str) -> str:  # the text may hold half a surrogate pair
        return text.encode("utf-8", "replace").decode()

    return encode({"error": clean(error), "traceback": clean(trace), "permanent": permanent})


def one_line(error: BaseException) -> str:
    if isinstance(error, ImportFailed):
        return str(error)
    try:
        text = next(iter(str(error).splitlines()), "")
    except BaseException:
        text = "(its text cannot be read)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def trace_of(error: BaseException) -> str:
    """The traceback of *error*, without the first frames, which are of this package."""
    if isinstance(error, ImportFailed) and error.__cause__ is not None:
        error = error.__cause__
    frame: TracebackType | None = error.__traceback__
    while frame is not None and os.path.dirname(frame.tb_frame.f_code.co_filename) == _HERE:
        frame = frame.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frame, limit=-_FRAMES))
    except BaseException:  # source in an odd encoding, a text that raises, a patched module
        return ""
