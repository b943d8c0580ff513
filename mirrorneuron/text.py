"""How numbers, times, signals and URLs are said to people."""

from __future__ import annotations

import re
import signal
from typing import Final

_ONE_OF_SEVERAL: Final = re.compile(r";(?=[a-z+]+://)")  # Celery's way to write several brokers
_SECRET: Final = re.compile(r"(?i)([^?&]*(?:password|secret|token)[^?&]*)=[^&]*")


def count(number: int, name: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def span(ms: int, units: int = 2) -> str:
    """A length of time, in its largest *units*; `a moment` below a second."""
    minutes, seconds = divmod(max(0, ms) // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")) if n]
    return " ".join(parts[:units]) or "a moment"


def size(bytes_: int) -> str:
    """So many bytes, in the largest unit of which there is one: `512 B`, `1.5 MiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if bytes_ >= 1024**power:
            return f"{bytes_ / 1024**power:.1f} {unit}"
    return f"{bytes_} B"


def signal_name(number: int) -> str:
    """`SIGTERM`; the number of one that has no name, which most real-time signals have not."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def without_password(url: str) -> str:
    """*url*, or several with `;` between, as it may stand in a log or an error. It need not be a URL at all."""
    return ";".join(map(_without_password, _ONE_OF_SEVERAL.split(url)))


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    place, mark, query = rest.partition("?")
    if "@" in place:
        place = "***@" + place.rpartition("@")[2]
    return scheme + separator + place + mark + _SECRET.sub(r"\1=***", query)
