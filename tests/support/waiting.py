"""Waiting for facts instead of sleeping for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(fact: Callable[[], T], timeout: float = 30.0, *, every: float = 0.01) -> T:
    """Return the first true answer of *fact*; fail the test when there is none within *timeout* seconds.

    The timeout is for tests that fail: it may be long, as a test that passes never waits for it.
    """
    deadline = time.monotonic() + timeout
    while True:
        if answer := fact():
            return answer
        if time.monotonic() > deadline:
            name = getattr(fact, "__qualname__", repr(fact))
            raise AssertionError(f"still not true after {timeout:g} s: {name}")
        time.sleep(every)
