"""Shows whether a manifest, or the files of a bundle, were changed since they were checked."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Final, TypeAlias

from mirrorneuron.bundle.archive import LEFT_OUT
from mirrorneuron.bundle.manifest import Manifest

#: A file may be written again within one tick of its file system's clock, with the same size and the same times. FAT
#: has the slowest clock.
SLOWEST_TICK_NS: Final = 2_000_000_000
OF_THE_JOB: Final = frozenset({"initial_inputs", "metadata"})  #: keys of a manifest that are not part of its bundle

Files: TypeAlias = tuple[tuple[Any, ...], ...]


def of_graph(manifest: Manifest | dict[str, Any]) -> bytes | None:
    """A hash of all values of *manifest* but those OF_THE_JOB; None for some values that JSON has not."""
    values = manifest if isinstance(manifest, dict) else vars(manifest)
    return _hash({name: value for name, value in values.items() if name not in OF_THE_JOB})


def of_job_values(manifest: Manifest) -> bytes | None:
    """A hash of the values of *manifest* that are OF_THE_JOB; None as for `of_graph`."""
    return _hash([vars(manifest).get(name) for name in sorted(OF_THE_JOB)])


def _hash(value: Any) -> bytes | None:
    # Pickled, because that takes a fifth of the time of JSON for models, and tells 1 from True and from 1.0.
    # Nothing is ever read from it.
    try:
        return hashlib.sha256(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)).digest()
    except Exception:  # objects of callers raise errors of any type
        return None


def of_files(*places: str | Path | None) -> Files | None:
    """Path, type, inode, size and times of each file and folder at *places*, down to the last subfolder.

    None if an unnoticed change is possible: a file was written just now, there is a symbolic link, or one cannot be
    read. A place that is None is skipped.
    """
    found: list[tuple[Any, ...]] = []
    newest = time.time_ns() - SLOWEST_TICK_NS
    stack = [os.fspath(place) for place in places if place is not None]
    try:
        for place in stack:
            found.append(_row(place, os.stat(place)))
        while stack:
            place = stack.pop()
            if not S_ISDIR(os.stat(place).st_mode):
                continue
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name == LEFT_OUT:
                        continue
                    if entry.is_symlink():
                        return None
                    found.append(_row(entry.path, entry.stat()))
                    if entry.is_dir():
                        stack.append(entry.path)
    except OSError:
        return None
    return None if any(row[-2] > newest for row in found) else tuple(found)


def _row(path: str, status: os.stat_result) -> tuple[Any, ...]:
    return path, status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
