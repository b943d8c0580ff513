"""Threads that a process starts when it first needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable


def started(name: str, work: Callable[[], object]) -> threading.Thread:
    """Start a daemon thread and return it. Raises RuntimeError if the OS refuses a thread; callers may retry."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
