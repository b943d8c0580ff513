"""How numbers and times are said to people."""

from __future__ import annotations


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
