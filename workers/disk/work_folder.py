"""Fresh folders for user code: created, locked while in use, and removed with everything in them."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from workers.disk.removal import remove

_UNHELD_S: Final = 60.0  # the creator of a younger folder may not have locked it yet


class HeldFolder:
    """An empty folder beneath *root* (None: the system's temporary folder). Leaving the context removes the folder.

    The folder is locked meanwhile, so that `remove_abandoned` can tell it from the folders of dead processes.
    """

    def __init__(self, root: Path | None, name: str) -> None:
        prefix, parent = f"{name[:80]}-", root or os.path.realpath(tempfile.gettempdir())
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except FileNotFoundError:
            if root is None:
                raise
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            self._lock_fd = os.open(self.path, os.O_RDONLY)
        except BaseException:
            remove(self.path)
            raise
        with suppress(OSError):  # a file system without locks: abandoned folders stay there
            fcntl.flock(self._lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def remove(self) -> None:
        remove(self.path)
        os.close(self._lock_fd)

    def disown(self) -> None:
        """In a forked process: close the descriptor; the folder belongs to the parent."""
        os.close(self._lock_fd)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def remove_abandoned(root: Path) -> None:
    """Remove the folders beneath *root* that killed processes have left."""
    with suppress(OSError):
        if root.is_symlink():
            return
        for entry in os.scandir(root):
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _UNHELD_S and not _held(entry.path):
                    remove(Path(entry.path))


def _held(folder: str) -> bool:
    """True if a process has locked *folder*. Raises OSError if the file system cannot tell."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
