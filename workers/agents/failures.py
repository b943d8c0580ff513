"""A failed run: the exception that says so, and its record.

Encoding the record does not raise, whatever the error and its details contain.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from typing import Any, Final

from mirrorneuron.message import decode, encode

KEPT_CHARACTERS: Final = 2_000  # of each text in details that are too large
ERROR_CHARACTERS: Final = 1_000  # of an error, which is stored in the result, in events and in the agent's record


class RunFailed(Exception):
    """The run failed. It is retried, or the job fails with this one-line error and its details."""

    def __init__(
        self,
        error: str,
        details: Mapping[str, Any] | None = None,
        *,
        transient: bool = False,
        permanent: bool = False,
    ) -> None:
        super().__init__(one_line(error))
        self.details = dict(details or {})
        self.transient = transient  #: a retry may succeed, so `retry_on: transient` retries it
        self.permanent = permanent  #: a retry cannot succeed, so the run is not retried
        self.events: list[tuple[str, Any]] = []  #: recorded in the job's history although the run failed


def run_failure(error: Exception) -> RunFailed:
    """Convert *error* to a RunFailed with its traceback. Call it in the `except` block that caught the error."""
    if isinstance(error, RunFailed):
        return error
    return RunFailed(f"{type(error).__name__}: {error}", {"traceback": traceback.format_exc()})


def utf8_safe(text: str) -> str:
    """*text* with the characters replaced that UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """*text* on one line of at most `ERROR_CHARACTERS` characters."""
    line = " ".join(utf8_safe(text).split())
    return line if len(line) <= ERROR_CHARACTERS else f"{line[: ERROR_CHARACTERS - 3]}..."


def encode_lossy(value: Any) -> bytes:
    """JSON bytes of *value*. Parts that have no JSON form are replaced by their `repr`, or left out."""
    try:
        return encode(value)
    except ValueError:
        text = json.dumps(value, default=repr, skipkeys=True, ensure_ascii=False).encode("utf-8", "replace")
        try:
            decode(text)
        except ValueError:  # NaN, or nested too deeply
            return encode(utf8_safe(repr(value)))
        return text


def failure_result(agent: str, error: str, details: dict[str, Any], max_bytes: int) -> bytes:
    """The result, as JSON, of a job that failed in *agent*. Long texts are cut to keep it within *max_bytes*.

    If that is not enough, the details are replaced by a note of their size.
    """
    summary = {"agent_id": agent, "error": error}
    text = encode_lossy({**summary, "details": details})
    if len(text) > max_bytes:
        kept = {name: _tail(value) if isinstance(value, str) else value for name, value in details.items()}
        text = encode_lossy({**summary, "details": kept})
    if len(text) > max_bytes:
        text = encode_lossy({**summary, "details": {"left_out": f"the details have {len(text)} bytes"}})
    return text


def _tail(text: str) -> str:
    return text if len(text) <= KEPT_CHARACTERS else f"[... {len(text)} characters ...]\n{text[-KEPT_CHARACTERS:]}"
