"""One lock for what happens at first use: imports, and the objects of a client. No process is forked meanwhile.

A child process inherits a lock that another thread held, and nothing in the child will ever release it: the lock of a
module that was being imported, or that of a `cached_property`.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  registers with `threading`, which refuses once the main thread has ended
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

FIRST_USE: Final = threading.RLock()

os.register_at_fork(before=FIRST_USE.acquire, after_in_parent=FIRST_USE.release, after_in_child=FIRST_USE.release)

_DONE: Final[set[str]] = set()


@contextmanager
def first_use(what: str) -> Iterator[None]:
    """Hold FIRST_USE within the block unless *what* has been done before in this process."""
    if what in _DONE:
        yield
        return
    with FIRST_USE:
        yield
    _DONE.add(what)
