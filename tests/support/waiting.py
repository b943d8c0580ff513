"""Wait for a condition instead of sleeping for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(fact: Callable[[], T], timeout: float = 30.0, *, every: float = 0.01) -> T:
    """Call *fact* until it returns a true value, and return that value. Fail the test after *timeout* seconds.

    The timeout may be long, because only a failing test waits for it.
    """
    deadline = time.monotonic() + timeout
    while True:
        if answer := fact():
            return answer
        if time.monotonic() > deadline:
            name = getattr(fact, "__qualname__", repr(fact))
            raise AssertionError(f"still not true after {timeout:g} s: {name}")
        time.sleep(every)
