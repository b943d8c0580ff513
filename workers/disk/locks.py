"""Kernel locks on files, which end with their process, and which no command of a bundle can hold for ever.

A command runs as the worker's user, so it can open and lock any file of the node. A lock that is held for too long, or
by a process that is no part of this worker, is broken: its file is replaced by a new one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

POLL_S: Final = 0.02

_log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, patience_s: float) -> Iterator[None]:
    """Hold the lock of the file *path* within the block. After *patience_s* it is taken from its holder.

    So the block must be harmless if two processes run it at once.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    opened = _taken(path, patience_s)
    try:
        yield
    finally:
        release(opened)


def _taken(path: Path, patience_s: float) -> int:
    deadline = time.monotonic() + patience_s
    while True:
        opened = open_lock(path)
        while not try_lock(opened) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if is_current(opened, path):
            if try_lock(opened):
                return opened
            _log.warning("the lock %s was held for %g s: it is replaced", path, patience_s)
            _replace(path)
            deadline = time.monotonic() + patience_s
        os.close(opened)


def open_lock(path: Path) -> int:
    """Open the lock file, which is created if it is missing. The programs that this process executes do not get it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def try_lock(opened: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock the open file if nobody has locked it."""
    try:
        fcntl.flock(opened, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def release(opened: int) -> None:
    """Unlock and close. Closing alone would not free the lock: a process forked meanwhile has the file open too."""
    fcntl.flock(opened, fcntl.LOCK_UN)
    os.close(opened)


def is_current(opened: int, path: Path) -> bool:
    """True if the open file is still the one at *path*."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(opened), os.lstat(path))
    return False


def break_foreign(opened: int, path: Path) -> None:
    """Replace the lock file if its holder is no part of this worker. Does nothing where the kernel names no holder.

    The parts of a worker are its main process and the main process's children: the processes of its pool.
    """
    holder = _holder(opened)
    own = {os.getpid(), os.getppid()}
    with suppress(psutil.Error):
        if holder is None or holder in own or psutil.Process(holder).ppid() in own:
            return
    if is_current(opened, path):
        _log.warning("process %s, no part of this worker, holds the lock %s: it is replaced", holder, path)
        _replace(path)


def _holder(opened: int) -> int | None:
    """The id of the process that has locked the open file, by Linux's table of locks; None if it is not known."""
    found = os.fstat(opened)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 4711 08:01:131074 0 EOF
            if words[1] == "FLOCK" and words[5] == file:
                return int(words[4]) or None  # 0: a process of another container
    return None


def _replace(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
