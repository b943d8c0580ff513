"""The cache of unpacked payloads: one folder for each digest, shared by all processes of the node."""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

from mirrorneuron.bundle import archive
from workers.disk.locks import locked
from workers.disk.removal import remove

BRIEF_S: Final = 10.0  #: patience with the holder of the lock for looking up and removing
FETCH_S: Final = 120.0  #: patience with a process that fetches an archive
TOUCH_EVERY_S: Final = 60.0  #: a folder that this process uses all the time is marked as used this often
IN_USE_S: Final = 3600  #: folders used or written within this time may be in use, and are kept
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class BundleCache:
    """Unpacked payloads beneath *root*, about *max_bytes* in all; the least recently used are evicted first.

    A folder's modification time is the time of its last use. Locks are kernel locks and end with their process: one
    for looking up and removing, held briefly, and one of sixteen for fetching a digest.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._touched: dict[str, tuple[float, Path]] = {}  #: digest -> when it was marked as used (monotonic), folder

    def path(self, digest: str, fetch: Callable[[], bytes]) -> Path:
        """Return the folder with the payloads of SHA-256 *digest*; if it is missing, *fetch* returns the archive.

        Raises ValueError if the archive has another digest or cannot be unpacked, and what *fetch* raises.
        """
        touched_at, target = self._touched.get(digest, (-math.inf, self._root))
        if time.monotonic() - touched_at < TOUCH_EVERY_S and target.is_dir():
            return target
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a SHA-256 digest")
        target = self._root / digest
        if self._touch(target):
            return target
        with self._locked(f"fetch-{digest[0]}"):
            if self._touch(target):
                return target
            data = fetch()
            found = hashlib.sha256(data).hexdigest()
            if found != digest:
                raise ValueError(f"the payloads {digest} are damaged: their SHA-256 is {found}")
            archive.unpack(data, target)
            self._touch(target)
        self.trim()
        return target

    def trim(self, now: float | None = None) -> None:
        """Evict the least recently used folders until the rest fits; remove what killed processes left half-written.

        Folders used in the hour before *now* (seconds since the epoch; default: the clock) are kept.
        """
        oldest_in_use = (time.time() if now is None else now) - IN_USE_S
        with self._locked("trim"):
            condemned = [self._condemn(path) for path in self._surplus(oldest_in_use)]
        for path in condemned:
            remove(path)

    def _touch(self, target: Path) -> bool:
        """Mark the folder as used; False if it does not exist."""
        if not target.is_dir():
            return False
        with self._locked("trim"):  # another process must not remove the folder between its check and this
            try:
                os.utime(target)
            except FileNotFoundError:
                return False
        self._touched[target.name] = time.monotonic(), target
        return True

    def _surplus(self, oldest_in_use: float) -> Iterator[Path]:
        folders, kept_bytes = [], 0
        for path in self._root.iterdir():
            try:
                used_at = path.stat().st_mtime
            except FileNotFoundError:
                continue  # another process has just removed it
            if _DIGEST.fullmatch(path.name):
                folders.append((used_at, path))
            elif path.is_dir() and used_at < oldest_in_use:
                yield path
        for used_at, path in sorted(folders, reverse=True):
            kept_bytes += _size(path)
            if kept_bytes > self._max_bytes and used_at < oldest_in_use:
                yield path

    def _condemn(self, path: Path) -> Path:
        """Rename a folder in one step, so that no process finds it half-removed."""
        if path.name.startswith("."):
            return path
        return path.rename(self._root / f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")

    def _locked(self, name: str) -> AbstractContextManager[None]:
        """The lock *name*. Two processes that hold it at once fetch an archive twice, or evict a folder just used."""
        return locked(self._root / f"{name}.lock", FETCH_S if name.startswith("fetch") else BRIEF_S)


def _size(folder: Path) -> int:
    """Bytes of all files beneath *folder*. Tolerates concurrent writes, and folders nested too deeply to walk."""
    size = 0
    with suppress(RecursionError):
        for where, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):
                    size += os.lstat(os.path.join(where, name)).st_size
    return size
