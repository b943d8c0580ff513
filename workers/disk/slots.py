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

from workers.disk.locks import break_foreign, is_current, open_lock, release, try_lock

POLL_S: Final = 0.02
SUSPICIOUS_S: Final = 1.0  #: a run that waits longer checks that it waits for runs of this worker, and for nobody else

_try, _release = try_lock, release


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
            gate = self._wait_for("gate", cancelled)
            held.callback(_release, gate)
            numbers = list(range(self.capacity))
            asked_at = time.monotonic()
            while count:
                suspicious = time.monotonic() - asked_at > SUSPICIOUS_S
                asked_at = time.monotonic() if suspicious else asked_at
                for number in numbers[:]:
                    slot, path = self._open(str(number)), self._folder / str(number)
                    if _try(slot) and is_current(slot, path):
                        held.callback(_release, slot)
                        numbers.remove(number)
                        count -= 1
                        if not count:
                            break
                    else:
                        if suspicious:
                            break_foreign(slot, path)
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

    def _wait_for(self, name: str, cancelled: Callable[[], object]) -> int:
        """Open and lock the file *name*."""
        path, asked_at = self._folder / name, time.monotonic()
        while True:
            opened = self._open(name)
            if _try(opened) and is_current(opened, path):
                return opened
            if time.monotonic() - asked_at > SUSPICIOUS_S:
                asked_at = time.monotonic()
                break_foreign(opened, path)
            os.close(opened)
            _pause(cancelled)

    def _open(self, name: str) -> int:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open_lock(self._folder / name)

    @contextmanager
    def _file(self, name: str) -> Iterator[int]:
        opened = self._open(name)
        try:
            yield opened
        finally:
            _release(opened)


def _pause(cancelled: Callable[[], object]) -> None:
    if cancelled():
        raise TimeoutError("the wait for slots was cancelled")
    time.sleep(POLL_S)
