"""Find processes by an environment variable: also those that have left the process group of their run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil


def pids_with(entry: str, *, prefix: bool = False) -> list[int]:
    """Return the ids of the processes that were started with *entry* (`NAME=value`) in their environment.

    With *prefix*, the value only has to begin with that of *entry*. Processes of other users, which may not be read,
    are left out. Costs about 30 us for each process of the machine.
    """
    return [process.pid for process in _processes_with(entry, prefix=prefix)]


def kill_with(entry: str, *, prefix: bool = False) -> bool:
    """Kill every process that `pids_with` finds. Returns True if there was one."""
    return _kill(list(_processes_with(entry, prefix=prefix)))


def kill_where(name: str, is_wanted: Callable[[str], bool]) -> bool:
    """Kill every process that was started with a variable *name* whose value *is_wanted*. True if there was one."""
    return _kill(list(_processes_where(name, is_wanted)))


def _kill(found: list[psutil.Process]) -> bool:
    for process in found:
        with suppress(psutil.Error):
            process.kill()  # psutil checks the start time first: a pid in use by a newer process is left alone
    return bool(found)


def _processes_with(entry: str, *, prefix: bool) -> Iterator[psutil.Process]:
    name, _, wanted = entry.partition("=")
    yield from _processes_where(name, lambda value: value.startswith(wanted) if prefix else value == wanted)


def _processes_where(name: str, is_wanted: Callable[[str], bool]) -> Iterator[psutil.Process]:
    # Not `process_iter`: its cache would return the old process for a pid that has been reused, and `kill` refuses it.
    for pid in psutil.pids():
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            value = process.environ().get(name)
            if value is not None and is_wanted(value):
                yield process
