"""Limits that several modules share."""

from __future__ import annotations

import time
from typing import Final

MOST: Final = 10**12  #: upper bound of every integer setting: 31 years in ms, 1 TB in bytes
LONGEST_WAIT_S: Final = 3600.0  #: `poll` and epoll take a C int of milliseconds, 24.8 days at most


def wait_until_s(due: float | None) -> float | None:
    """Return how long one call may wait for the monotonic moment *due*: at most LONGEST_WAIT_S, never negative.

    None (no deadline) stays None. The caller must loop until *due*: the wait may end before it.
    """
    return None if due is None else min(max(0.0, due - time.monotonic()), LONGEST_WAIT_S)
