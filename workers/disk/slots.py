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
from typing import Final, NamedTuple

from workers.disk.locks import break_foreign, is_current, open_lock, release, try_lock

POLL_S: Final = 0.02
SUSPICIOUS_S: Final = 1.0  #: a run that waits longer checks that it waits for runs of this worker, and for nobody else

_try, _release = try_lock, release


class NotEnoughSlots(Exception):
    """The run asks for more slots than the pool has on this node."""


class _Opened(NamedTuple):
    """A lock file that is kept open."""

    fd: int
    path: Path

    def lock(self) -> bool:
        return _try(self.fd) and is_current(self.fd, self.path)


class Slots:
    """The slots of one pool on one worker: *capacity* lock files in *folder*."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self._folder = folder
        self.capacity = capacity
        #: the files of the gate and of the slot that a run of one slot had, unlocked; in a list that one thread empties
        self._kept: list[tuple[_Opened, _Opened]] = []

    @contextmanager
    def taken(self, count: int, cancelled: Callable[[], object]) -> Iterator[None]:
        """Hold *count* slots within the block. Waits, one run after the other, until *cancelled* returns true.

        Raises NotEnoughSlots, and TimeoutError if the wait was cancelled.
        """
        if count > self.capacity:
            raise NotEnoughSlots(f"the run needs {count} slots, but its pool has only {self.capacity} on this node")
        if count > 1:
            with self._waited_for(count, cancelled):
                yield
            return
        files = self._locked_again() or self._wait_for_one(cancelled)
        try:
            yield
        finally:
            fcntl.flock(files[1].fd, fcntl.LOCK_UN)
            self._kept.append(files)

    def _locked_again(self) -> tuple[_Opened, _Opened] | None:
        """Lock the slot that this process had last. None if it is in use, or if somebody waits at the gate."""
        try:
            gate, slot = self._kept.pop()
        except IndexError:
            return None
        if gate.lock() and slot.lock():
            fcntl.flock(gate.fd, fcntl.LOCK_UN)
            return gate, slot
        for opened in (gate, slot):
            _release(opened.fd)
        return None

    def _wait_for_one(self, cancelled: Callable[[], object]) -> tuple[_Opened, _Opened]:
        with ExitStack() as held:
            gate, (slot,) = self._wait(held, 1, cancelled)
            held.pop_all()  # both files stay open
            return gate, slot

    @contextmanager
    def _waited_for(self, count: int, cancelled: Callable[[], object]) -> Iterator[None]:
        with ExitStack() as held:
            self._wait(held, count, cancelled)
            yield

    def _wait(self, held: ExitStack, count: int, cancelled: Callable[[], object]) -> tuple[_Opened, list[_Opened]]:
        """Lock *count* slots, which *held* releases. Returns the files of the gate, unlocked, and of the slots."""
        # A waiting run holds the gate, so that small runs cannot overtake a large one for ever.
        gate = self._wait_for("gate", cancelled)
        held.callback(_release, gate.fd)
        numbers, slots = list(range(self.capacity)), list[_Opened]()
        asked_at = time.monotonic()
        while True:
            suspicious = time.monotonic() - asked_at > SUSPICIOUS_S
            asked_at = time.monotonic() if suspicious else asked_at
            for number in numbers[:]:
                slot = self._open(str(number))
                if slot.lock():
                    held.callback(_release, slot.fd)
                    numbers.remove(number)
                    slots.append(slot)
                    if len(slots) == count:
                        fcntl.flock(gate.fd, fcntl.LOCK_UN)
                        return gate, slots
                else:
                    if suspicious:
                        break_foreign(slot.fd, slot.path)
                    os.close(slot.fd)
            _pause(cancelled)

    def in_use(self) -> int:
        """Return the number of slots in use."""
        taken = 0
        for number in range(self.capacity):
            slot = self._open(str(number)).fd
            try:
                taken += not _try(slot, fcntl.LOCK_SH)
            finally:
                _release(slot)
        return taken

    def _wait_for(self, name: str, cancelled: Callable[[], object]) -> _Opened:
        """Open and lock the file *name*."""
        asked_at = time.monotonic()
        while True:
            opened = self._open(name)
            if opened.lock():
                return opened
            if time.monotonic() - asked_at > SUSPICIOUS_S:
                asked_at = time.monotonic()
                break_foreign(opened.fd, opened.path)
            os.close(opened.fd)
            _pause(cancelled)

    def _open(self, name: str) -> _Opened:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / name
        return _Opened(open_lock(path), path)


def _pause(cancelled: Callable[[], object]) -> None:
    if cancelled():
        raise TimeoutError("the wait for slots was cancelled")
    time.sleep(POLL_S)
