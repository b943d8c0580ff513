"""The identity of a process on this machine: its pid and its start, so that a reused pid is not mistaken for it.

`psutil` does not offer a start that can be recorded. On Linux, its `create_time` is the start in ticks since boot plus
the boot time, and the kernel's boot time moves whenever the wall clock is set. On macOS, it corrects the kernel's value
by the clock changes that the observing process has seen, so two observers may disagree. A running server would then
count as dead. The values that are read here depend neither on the clock nor on the observer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.processes.groups import kill_group

PROC = Path("/proc")
POLL_S = 0.02  #: between two checks of a process that is being ended
KILLED_S = 10.0  #: how long a killed process may take to disappear (it may be blocked in a disk write)


class Process(BaseModel):
    """Identity of one process. Unique on this machine, also across reboots."""

    model_config = ConfigDict(frozen=True)

    pid: int
    born: str  #: opaque; the same for every observer at any time


def find(pid: int) -> Process | None:
    """Return the process that has *pid* now. None if there is none, or if it is a zombie."""
    born = _born_linux(pid) if sys.platform == "linux" else _born_ps(pid)
    return Process(pid=pid, born=born) if born else None


def alive(process: Process | None) -> bool:
    """Return True if *process* still runs. False for None, for a zombie, and if its pid has been reused."""
    return process is not None and find(process.pid) == process


def end(process: Process, grace_s: float) -> bool:
    """Send SIGTERM to *process*, and after *grace_s* SIGKILL to its group. Blocks until the process is gone.

    Returns False if it was not running. Raises RuntimeUnavailable if the process is still there after SIGKILL.
    """
    if not alive(process):
        return False
    _send(process, signal.SIGTERM)
    if not _gone_within(process, grace_s):
        _send(process, signal.SIGKILL)
        if not _gone_within(process, KILLED_S):
            raise RuntimeUnavailable(f"process {process.pid} still exists {KILLED_S:g} s after SIGKILL")
    return True


def _send(process: Process, sign: signal.Signals) -> None:
    if alive(process):
        with suppress(ProcessLookupError):
            # A group that another process leads may contain the shell that runs this command.
            if sign is signal.SIGKILL and os.getpgid(process.pid) == process.pid:
                kill_group(process.pid)
            else:
                os.kill(process.pid, sign)


def _gone_within(process: Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _born_linux(pid: int) -> str | None:
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The name in parentheses may contain spaces and ")", so the fields after the last ")" are counted:
    # field 3 is the state, field 22 the start in clock ticks since boot.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else f"{boot}/{int(fields[19])}"


def _born_ps(pid: int) -> str | None:
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
        check=False,
    )
    state, _, born = shown.stdout.strip().partition(" ")
    return None if state.startswith("Z") else born.strip() or None
