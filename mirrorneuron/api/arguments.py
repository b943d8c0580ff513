"""What callers may pass: each is checked before anything is asked, and what makes no sense is told in one line.

TypeError for what is of the wrong kind, ValueError for what has no such value.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

from mirrorneuron.errors import Issue, JobNotFound, ManifestError
from mirrorneuron.job import JobStatus, is_job_id

MOST: Final = 2**63 - 1  # that a server counts to
_EVENT_ID: Final = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})?")


def job_id(value: Any) -> None:
    """The id of a job that may exist. Raises JobNotFound for a string that can be no id."""
    text("job_id", value)
    if not is_job_id(value):
        raise JobNotFound(value)


def new_job_id(value: Any) -> None:
    """The id that a new job shall have, or None. Raises ManifestError for a string that can be no id."""
    text("job_id", value, optional=True)
    if value is not None and not is_job_id(value):
        raise ManifestError(
            [
                Issue(
                    "job_id",
                    f"{value!r} is no job id",
                    "1 to 128 of A-Z a-z 0-9 . _ -, first a letter or digit",
                )
            ]
        )


def text(name: str, value: Any, *, optional: bool = False) -> None:
    """A string; with *optional*, or None."""
    if not (isinstance(value, str) or (optional and value is None)):
        raise TypeError(f"{name} must be a string, not {value!r}")


def reason(value: Any) -> None:
    """What is written down as it is: a string that UTF-8 can say, or None."""
    text("reason", value, optional=True)
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise ValueError(f"reason must be text that UTF-8 can say, not {value!r}") from None


def status(value: Any) -> JobStatus | None:
    """A status by its name, or None."""
    if value is None:
        return None
    text("status", value)
    words = tuple(str(word) for word in JobStatus)
    if value not in words:
        raise ValueError(f"no job status {value!r} (one of: {', '.join(words)})")
    return JobStatus(value)


def event_id(value: Any) -> None:
    """The id of an event, as `events` gives it, or None."""
    text("after", value, optional=True)
    if value is not None and not _EVENT_ID.fullmatch(value):
        raise ValueError(f"after must be the id of an event, like 1767225600000-0, not {value!r}")


def count(name: str, value: Any) -> int | None:
    """How many at most, or None; a number that no server counts to is as good as the largest."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number or None, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")
    return min(value, MOST)


def age(name: str, value: Any) -> None:
    """A timedelta that is not negative, or None."""
    if not isinstance(value, timedelta | None):
        raise TypeError(f"{name} must be a timedelta or None, not {value!r}")
    if value is not None and value < timedelta():
        raise ValueError(f"{name} must not be negative, and is {value!r}")
