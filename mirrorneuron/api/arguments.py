"""Checks of the arguments of the job API, before any I/O. Each error is one line.

TypeError for a value of the wrong type, ValueError for a value out of range.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from mirrorneuron.errors import Issue, JobNotFound, ManifestError
from mirrorneuron.job import JobStatus, is_job_id
from mirrorneuron.limits import MOST
from mirrorneuron.message import encode

MAX_COUNT: Final = 2**63 - 1  # the largest integer of a Redis server
_EVENT_ID: Final = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})?")
_JOB_ID_HINT: Final = "use 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit"


def job_id(value: Any) -> None:
    """Check the id of an existing job. Raises JobNotFound for a string that is not a valid id."""
    text("job_id", value)
    if not is_job_id(value):
        raise JobNotFound(value)


def new_job_id(value: Any) -> None:
    """Check the id for a new job, or None. Raises ManifestError for a string that is not a valid id."""
    text("job_id", value, optional=True)
    if value is not None and not is_job_id(value):
        raise ManifestError([Issue("job_id", f"{value!r} is not a valid job id", _JOB_ID_HINT)])


def text(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that *value* is a string; with *optional*, None is allowed."""
    if not (isinstance(value, str) or (optional and value is None)):
        raise TypeError(f"{name} must be a string, not {value!r}")


def reason(value: Any) -> None:
    """Check a reason, which is stored as it is: a string that UTF-8 can encode, or None."""
    text("reason", value, optional=True)
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise ValueError(f"reason must be encodable as UTF-8, not {value!r}") from None


def status(value: Any) -> JobStatus | None:
    """Return the job status named *value*, or None for None."""
    if value is None:
        return None
    text("status", value)
    words = tuple(str(word) for word in JobStatus)
    if value not in words:
        raise ValueError(f"{value!r} is not a job status (one of: {', '.join(words)})")
    return JobStatus(value)


def event_id(value: Any) -> None:
    """Check an event id, as `events` returns it, or None."""
    text("after", value, optional=True)
    if value is not None and not _EVENT_ID.fullmatch(value):
        raise ValueError(f"after must be the id of an event, like 1767225600000-0, not {value!r}")


def count(name: str, value: Any) -> int | None:
    """Return the upper bound *value*, at most MAX_COUNT, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer or None, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")
    return min(value, MAX_COUNT)


def age(name: str, value: Any) -> None:
    """Check that *value* is a timedelta that is not negative, or None."""
    if not isinstance(value, timedelta | None):
        raise TypeError(f"{name} must be a timedelta or None, not {value!r}")
    if value is not None and value < timedelta():
        raise ValueError(f"{name} must not be negative, not {value!r}")


def seconds(name: str, value: Any) -> float | None:
    """Return *value*, a positive number of seconds or a timedelta, in seconds; None for None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(f"{name} must be seconds, a timedelta or None, not {value!r}")
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value!r}")
    return float(min(value, MOST // 1000))


def inputs(value: Any) -> Mapping[str, Any]:
    """Return *value*, a mapping of node ids, or an empty mapping for None. Its payloads are checked with the bundle."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"inputs must map node ids to payloads, not {value!r}")
    return value or {}


def metadata(value: Any) -> dict[str, Any]:
    """Return *value*, a flat object of JSON values, or None, as a dict."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"metadata must be a mapping or None, not {value!r}")
    for name, item in value.items():
        if not isinstance(name, str) or not isinstance(item, str | int | float | bool | None):
            raise TypeError(
                f"metadata must map strings to strings, numbers, booleans or None, not {name!r} to {item!r}"
            )
    try:
        encode(dict(value))
    except ValueError as error:
        raise ValueError(f"metadata is not valid JSON: {error}") from None
    return dict(value)


def has_metadata(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """True if *found* has all values of *wanted*. A string also stands for the JSON value that it writes."""
    return all(name in found and _equal(found[name], value) for name, value in wanted.items())


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, str) and not isinstance(found, str):
        return encode(found) == wanted.encode("utf-8", "replace")
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)
