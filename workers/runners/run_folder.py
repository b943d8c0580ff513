"""The fresh folder of one run: made, owned while the run lasts, and removed whatever the command left in it."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from workers.removal import remove

_UNOWNED_S: Final = 60.0  # a folder this young may be about to be locked by its run


@contextmanager
def run_folder(runs: Path, name: str) -> Iterator[Path]:
    """An empty folder beneath *runs* for this block alone.

    It holds a lock meanwhile, so that `remove_abandoned` can tell it from what a dead node left.
    """
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name[:80]}-", dir=runs))
    lock_fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then abandoned folders stay
            fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield folder
    finally:
        remove(folder)
        os.close(lock_fd)


def remove_abandoned(runs: Path) -> None:
    """Remove the folders of runs whose process was killed before it could do so itself."""
    with suppress(OSError):
        for entry in os.scandir(runs):
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _UNOWNED_S and not _owned(entry.path):
                    remove(Path(entry.path))


def _owned(folder: str) -> bool:
    """Does a run hold *folder*? Asking raises OSError where that cannot be told."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
