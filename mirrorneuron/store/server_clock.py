"""The server's time, known without a round trip for each reading."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

VALID_S: Final = 60.0  # for which one reading is used; two clocks drift apart by a few ms in that time
STEP_S: Final = 0.5  # by which the two local clocks may differ; more means that one was set, or the machine slept


class ServerClock:
    """The server's time, which stamps messages and judges their age. The clocks of nodes and producers may be wrong.

    *read* asks the server (ms since the epoch). Its answer is used for *valid_s* seconds, and advanced by the local
    time that has passed since. Thread-safe.
    """

    def __init__(self, read: Callable[[], int], valid_s: float = VALID_S) -> None:
        self._read = read
        self._valid_s = valid_s
        self._reading: tuple[int, float, float] | None = None  #: server time (ms), monotonic clock and wall clock (s)

    def known_ms(self) -> int | None:
        """Return the server's time without asking; None if it has to be asked."""
        reading = self._reading
        if reading is None or not self._valid(reading):
            return None
        return reading[0] + int((time.monotonic() - reading[1]) * 1000)

    def now_ms(self) -> int:
        """Return the server's time in ms since the epoch. Raises redis errors if it has to ask."""
        reading = self._reading
        if reading is None or not self._valid(reading):
            asked = time.monotonic()
            server_ms = self._read()
            half_ms = (time.monotonic() - asked) * 500  # the server answered in the middle of the round trip
            reading = self._reading = (server_ms + int(half_ms), time.monotonic(), time.time())
        return reading[0] + int((time.monotonic() - reading[1]) * 1000)

    def _valid(self, reading: tuple[int, float, float]) -> bool:
        passed = time.monotonic() - reading[1]
        return passed < self._valid_s and abs(time.time() - reading[2] - passed) < STEP_S
