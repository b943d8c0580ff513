"""A fresh folder that somebody's code works in: made, held while it does, and removed whatever the code left in it."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from workers.disk.removal import remove

_UNHELD_S: Final = 60.0  # a folder this young may be about to be locked by whoever has made it


class HeldFolder:
    """An empty folder beneath *root* (None: where temporary files go). Leaving the context removes it.

    It holds a lock meanwhile, so that `remove_abandoned` can tell it from what a dead node left.
    """

    def __init__(self, root: Path | None, name: str) -> None:
        if root is not None:
            root.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=f"{name[:80]}-", dir=root))
        try:
            self._lock_fd = os.open(self.path, os.O_RDONLY)
        except BaseException:
            remove(self.path)
            raise
        with suppress(OSError):  # a file system without locks: then abandoned folders stay
            fcntl.flock(self._lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def remove(self) -> None:
        remove(self.path)
        os.close(self._lock_fd)

    def disown(self) -> None:
        """Let go of a folder that is another process's now."""
        os.close(self._lock_fd)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def remove_abandoned(root: Path) -> None:
    """Remove the folders beneath *root* of processes that were killed before they could do so themselves."""
    with suppress(OSError):
        for entry in os.scandir(root):
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _UNHELD_S and not _held(entry.path):
                    remove(Path(entry.path))


def _held(folder: str) -> bool:
    """Does a process hold *folder*? Asking raises OSError where that cannot be told."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
