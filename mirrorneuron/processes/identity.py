"""A process of this machine, named so that a reused pid is never taken for it: the pid and when it began."""

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

POLL_S = 0.02  #: between two looks at a process that is being ended
KILLED_S = 10.0  #: how long a killed process may take to vanish (it may sit in a disk write)


class Process(BaseModel):
    """Identity of one process; equal only to itself, also after a reboot."""

    model_config = ConfigDict(frozen=True)

    pid: int
    born: str  #: opaque; from the kernel, equal in every look at the same process


def find(pid: int) -> Process | None:
    """Return the process that has *pid* now; None when there is none, or when it is dead and only unreaped."""
    born = _born_linux(pid) if sys.platform == "linux" else _born_ps(pid)
    return Process(pid=pid, born=born) if born else None


def alive(process: Process | None) -> bool:
    """Say whether that very process still runs. None is never alive."""
    return process is not None and find(process.pid) == process


def end(process: Process, grace_s: float) -> bool:
    """Ask *process* to end (TERM), and kill it with its group after *grace_s*. Blocks until it is gone.

    Returns False when it was not running. Raises RuntimeUnavailable when even a kill does not end it.
    """
    if not alive(process):
        return False
    _send(process, signal.SIGTERM)
    if not _gone_within(process, grace_s):
        _send(process, signal.SIGKILL)
        if not _gone_within(process, KILLED_S):
            raise RuntimeUnavailable(f"process {process.pid} was killed and is still there after {KILLED_S:g} s")
    return True


def _send(process: Process, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        # Only a group that the process leads is its own; any other may hold the shell that we run in.
        if sign is signal.SIGKILL and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, sign)
        elif alive(process):
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
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The name in parentheses may hold anything, so fields are counted from the last ")": 3 is the state,
    # 22 the start in clock ticks since boot.
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
