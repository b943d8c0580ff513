"""A shortage of the node: no space, processes, descriptors or memory left for the code of the worker itself.

It is no fault of the run that met it. The run is given back uncounted, and the worker takes no tasks for a while.
"""

from __future__ import annotations

import errno
import mmap
import struct
import time
from collections.abc import Mapping
from typing import Final

FIRST_PAUSE_S: Final = 1.0  #: doubles with each shortage in a row
LONGEST_PAUSE_S: Final = 60.0
SETTLE_S: Final = 1.0  #: how long a run that is given back waits for its worker to stop taking tasks
POLL_S: Final = 0.05

NO_THREAD: Final = "can't start new thread"  # the text of Python's RuntimeError
KINDS: Final = (
    "disk full",
    "disk quota exceeded",
    "no processes left",
    "no descriptors left",
    "no descriptors left on the machine",
    "no memory left",
)
_BY_ERRNO: Final[Mapping[int, str]] = {
    errno.ENOSPC: KINDS[0],
    errno.EDQUOT: KINDS[1],
    errno.EAGAIN: KINDS[2],
    errno.EMFILE: KINDS[3],
    errno.ENFILE: KINDS[4],
    errno.ENOMEM: KINDS[5],
}
_FORMAT: Final = struct.Struct("=ddII?")  # since, until, shortages in a row, index of the kind, paused


class NodeShortage(Exception):
    """The worker lacks what it needs to run anything; the text is one of KINDS."""


def shortage_of(error: BaseException) -> str:
    """Which shortage of the node the *error* of the worker's own code means; "" if none."""
    match error:
        case NodeShortage():
            return str(error)
        case MemoryError():
            return KINDS[5]
        case RuntimeError() if NO_THREAD in str(error):
            return KINDS[2]
        case OSError(errno=int(number)):
            return _BY_ERRNO.get(number, "")
    return ""


class Board:
    """What the processes of one worker know of a shortage, in memory that they share: the disk may be full."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)

    def report(self, kind: str) -> None:
        """Note a shortage. Those that are met during a pause count once."""
        since, until, count, _, paused = self._read()
        now = time.time()
        if now < until:
            return
        pause_s = min(FIRST_PAUSE_S * 2 ** min(count, 30), LONGEST_PAUSE_S)
        self._write(since if count else now, now + pause_s, count + 1, KINDS.index(kind), paused)

    def clear(self) -> None:
        """Note that a run has begun without a shortage."""
        if self._read()[2]:
            self._write(0, 0, 0, 0, self.paused)

    @property
    def active(self) -> bool:
        """True while the worker shall take no tasks."""
        now = time.time()
        return now < self._read()[1] <= now + LONGEST_PAUSE_S  # a clock that was set back ends the pause

    @property
    def paused(self) -> bool:
        """True if the worker takes no tasks now."""
        return self._read()[4]

    @paused.setter
    def paused(self, value: bool) -> None:
        self._write(*self._read()[:4], value)

    def present(self) -> tuple[str, float] | None:
        """The kind of the shortage and when it was met first, in seconds since the epoch, until a run has begun."""
        since, _, count, kind, _ = self._read()
        return (KINDS[kind], since) if count else None

    def settle(self) -> None:
        """Wait until the worker has stopped taking tasks, so that it does not take at once what a run gives back."""
        deadline = time.monotonic() + SETTLE_S
        time.sleep(3 * POLL_S)  # longer than the time slice in which a task claims more work
        while not self.paused and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _read(self) -> tuple[float, float, int, int, bool]:
        return _FORMAT.unpack_from(self._shared)

    def _write(self, *values: float | int | bool) -> None:
        _FORMAT.pack_into(self._shared, 0, *values)


BOARD: Final = Board()  # made before the worker forks
