"""Find processes by what stands in their environment: a run's own, even where they have left its process group."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def pids_with(entry: str, *, prefix: bool = False) -> list[int]:
    """Ids of the processes that were started with *entry* (`NAME=value`, or the beginning of one) in their environment.

    Empty where there is no `/proc`; processes that may not be looked at are left out.
    """
    sought = b"\0" + os.fsencode(entry) + (b"" if prefix else b"\0")
    found = []
    for process in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):
            if sought in b"\0" + (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def kill_with(entry: str, *, prefix: bool = False) -> bool:
    """Kill every process that `pids_with` finds; says whether there was any."""
    found = pids_with(entry, prefix=prefix)
    for pid in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)
