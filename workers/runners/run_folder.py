"""The fresh folder of one run: made, owned while the run lasts, and removed whatever the command left in it."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)
_UNOWNED_S: Final = 60.0  # a folder this young may be about to be locked by its run
_TRIES: Final = 3  # a killed process may create a file while its folder is being removed


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


def remove(folder: Path) -> None:
    """Delete *folder* and all in it, also what is write-protected. What cannot be deleted is logged, not raised."""
    for _ in range(_TRIES):
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except RecursionError:  # Python gives up on folders nested some hundreds deep, `rm` does not
            with suppress(OSError):
                subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)
        if not folder.exists():
            return
        with suppress(OSError, RecursionError):
            _make_writable(folder)
    _log.warning("run folder %s cannot be removed", folder)


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


def _make_writable(folder: Path) -> None:
    """Deleting needs rights on folders, not on files. Links to folders are left alone: they may point anywhere."""
    folder.chmod(0o700)
    for path, folders, _ in os.walk(folder):
        for name in folders:  # before the walk goes into them
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
