"""What undoes the blows of the crash test, each at its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

from mirrorneuron.chaos.schedule import CHOICES, Strike

AGAIN_S: Final = 0.1  #: pause before a repair is tried again that the server does not allow yet

Repair: TypeAlias = Callable[[], object]  #: a text that it returns is a note for the user


class Repairs:
    """The repairs that are outstanding."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, Repair]] = []  #: (when: monotonic seconds, what)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def later(self, pause_s: tuple[float, float], strike: Strike, repair: Repair) -> float:
        """Schedule *repair* after a pause that the strike chooses, and return the pause in seconds.

        *pause_s* is the shortest pause, and the range above it.
        """
        seconds = pause_s[0] + pause_s[1] * strike.which / CHOICES
        self.after(seconds, repair)
        return seconds

    def after(self, seconds: float, repair: Repair) -> None:
        self._rows.append((time.monotonic() + seconds, repair))

    def take_due(self) -> list[Repair]:
        """Remove the repairs that are due, and return them."""
        now = time.monotonic()
        due = [repair for at_s, repair in self._rows if at_s <= now]
        self._rows = [row for row in self._rows if row[0] > now]
        return due
