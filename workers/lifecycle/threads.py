"""Threads that a process starts when it first needs them, and never again."""

from __future__ import annotations

import threading
from collections.abc import Callable


def started(name: str, work: Callable[[], object]) -> threading.Thread:
    """A daemon thread that runs. Raises RuntimeError where there is no room for one; who asks again tries again."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
