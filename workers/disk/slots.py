"""Pool slots of one worker: a run takes `pool_slots` of them; `inspect_nodes` shows how many are in use.

A slot is a locked file. The kernel releases the lock when the process dies, so a slot is never lost, and the processes
of a Celery pool share the files without a server. A run that takes one slot never waits, because a worker has no more
processes than slots; a run that takes several slots waits until enough other runs have ended.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

POLL_S: Final = 0.02


class NotEnoughSlots(Exception):
    """The run asks for more slots than the pool has on this node."""


class Slots:
    """The slots of one pool on one worker: *capacity* lock files in *folder*."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self._folder = folder
        self.capacity = capacity

    @contextmanager
    def taken(self, count: int, cancelled: Callable[[], object]) -> Iterator[None]:
        """Hold *count* slots within the block. Waits, one run after the other, until *cancelled* returns true.

        Raises NotEnoughSlots, and TimeoutError if the wait was cancelled.
        """
        if count > self.capacity:
            raise NotEnoughSlots(f"the run needs {count} slots, but its pool has only {self.capacity} on this node")
        with ExitStack() as held:
            # A waiting run holds the gate, so that small runs cannot overtake a large one for ever.
            gate = held.enter_context(self._file("gate"))
            while not _try(gate):
                _pause(cancelled)
            numbers = list(range(self.capacity))
            while count:
                for number in numbers[:]:
                    slot = self._open(str(number))
                    if _try(slot):
                        held.callback(_release, slot)
                        numbers.remove(number)
                        count -= 1
                        if not count:
                            break
                    else:
                        os.close(slot)
                else:
                    _pause(cancelled)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield

    def in_use(self) -> int:
        """Return the number of slots in use."""
        taken = 0
        for number in range(self.capacity):
            with self._file(str(number)) as slot:
                taken += not _try(slot, fcntl.LOCK_SH)
        return taken

    def _open(self, name: str) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def _file(self, name: str) -> Iterator[int]:
        opened = self._open(name)
        try:
            yield opened
        finally:
            _release(opened)


def _try(opened: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(opened, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release(opened: int) -> None:
    """Unlock and close. Closing alone would not free the slot: a process forked meanwhile has the file open too."""
    fcntl.flock(opened, fcntl.LOCK_UN)
    os.close(opened)


def _pause(cancelled: Callable[[], object]) -> None:
    if cancelled():
        raise TimeoutError("the wait for slots was cancelled")
    time.sleep(POLL_S)
