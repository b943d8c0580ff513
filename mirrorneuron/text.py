"""Formats numbers, times, sizes, signals and URLs for people to read."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import Final

_URL_SEPARATOR: Final = re.compile(r";(?=[a-z+]+://)")  # Celery's separator between several broker URLs
_SECRET: Final = re.compile(r"(?i)([^?&]*(?:password|secret|token)[^?&]*)=[^&]*")


def count(number: int, name: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def first_names(names: Sequence[str]) -> str:
    """The first three *names*, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def span(ms: int, units: int = 2) -> str:
    """A duration in its *units* largest units, like `2 h 5 min`; `a moment` below one second."""
    minutes, seconds = divmod(max(0, ms) // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")) if n]
    return " ".join(parts[:units]) or "a moment"


def size(bytes_: int) -> str:
    """A number of bytes in the largest fitting unit: `512 B`, `1.5 MiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if bytes_ >= 1024**power:
            return f"{bytes_ / 1024**power:.1f} {unit}"
    return f"{bytes_} B"


def signal_name(number: int) -> str:
    """The name of a signal, like `SIGTERM`, or its number if it has no name (as most real-time signals)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def without_password(url: str) -> str:
    """*url* (or several, separated by `;`) for a log or an error, without passwords. Accepts any text."""
    return ";".join(map(_without_password, _URL_SEPARATOR.split(url)))


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    place, mark, query = rest.partition("?")
    if "@" in place:
        place = "***@" + place.rpartition("@")[2]
    return scheme + separator + place + mark + _SECRET.sub(r"\1=***", query)


def shortage_hint(reason: str) -> str:
    """What to do about a node that lacks something."""
    if "disk" in reason:
        return "free space in MIRROR_NEURON_TEMP_DIR"
    return "end what uses it up, or raise the limit (ulimit, cgroup)"


def printable(text: str) -> str:
    """*text* with escapes in place of control characters and whatever else a terminal could misread."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
