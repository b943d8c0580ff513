"""The record of a failure, whatever it has to tell: it must not fail in its turn."""

from __future__ import annotations

import json
from typing import Any, Final

from mirrorneuron.message import decode, encode

KEPT_CHARACTERS: Final = 2_000  # of a text, when the details of a failure are too large
ERROR_CHARACTERS: Final = 1_000  # of an error: it stands in the result, in the events and in the agent's record


def printable(text: str) -> str:
    """*text* without what UTF-8 cannot say."""
    return text.encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """*text* as the one line that an error is."""
    line = " ".join(printable(text).split())
    return line if len(line) <= ERROR_CHARACTERS else f"{line[: ERROR_CHARACTERS - 3]}..."


def encode_anyhow(value: Any) -> bytes:
    """JSON bytes of *value*; what JSON cannot say is written as best it can be."""
    try:
        return encode(value)
    except ValueError:
        text = json.dumps(value, default=repr, skipkeys=True, ensure_ascii=False).encode("utf-8", "replace")
        try:
            decode(text)
        except ValueError:  # NaN, or nested too deeply
            return encode(printable(repr(value)))
        return text


def result_of(agent: str, error: str, details: dict[str, Any], max_bytes: int) -> bytes:
    """The result of a job that failed in *agent*: JSON of at most *max_bytes*, its longest texts cut if need be."""
    summary = {"agent_id": agent, "error": error}
    text = encode_anyhow({**summary, "details": details})
    if len(text) > max_bytes:
        kept = {name: _end_of(value) if isinstance(value, str) else value for name, value in details.items()}
        text = encode_anyhow({**summary, "details": kept})
    if len(text) > max_bytes:
        text = encode_anyhow({**summary, "details": {"left_out": f"the details have {len(text)} bytes"}})
    return text


def _end_of(text: str) -> str:
    return text if len(text) <= KEPT_CHARACTERS else f"[... {len(text)} characters ...]\n{text[-KEPT_CHARACTERS:]}"
