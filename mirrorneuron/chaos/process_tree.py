"""The processes of a stage: how they start, which there are beneath one of ours, and the end of all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from celery.platforms import set_pdeathsig

from mirrorneuron.processes import by_environment

GONE_S: Final = 10.0  #: how long killed processes may take to vanish
POLL_S: Final = 0.02

#: Pid -> parent, group, and command line (None: not read yet); without the dead that nobody has reaped.
Table = dict[int, tuple[int, int, str | None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One process, as it was when somebody looked."""

    pid: int
    parent: int
    group: int
    depth: int  #: 1 for the children of the root
    words: str  #: its command line

    @property
    def leads(self) -> bool:
        """Does it lead a process group?"""
        return self.group == self.pid


def start(argv: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that dies with the thread that calls (on Linux). What it says is added to *log*."""
    with log.open("ab") as said:
        return subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
            preexec_fn=lambda: set_pdeathsig("SIGKILL"),  # safe: the crash test has no other thread
        )


def beneath(root: int) -> list[Seen]:
    """All descendants of process *root*, by depth, then by pid."""
    rows = table()
    children: dict[int, list[int]] = defaultdict(list)
    for pid, (parent, _, _) in rows.items():
        children[parent].append(pid)
    found: list[Seen] = []
    depth, level = 1, sorted(children[root])
    while level:
        for pid in level:
            parent, group, words = rows[pid]
            found.append(Seen(pid, parent, group, depth, _words(pid) if words is None else words))
        depth, level = depth + 1, sorted(child for pid in level for child in children[pid])
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM when only zombies are left in it
        os.killpg(group, signal.SIGKILL)


def kill_all_with(entry: str) -> None:
    """Kill every process that has *entry* (`NAME=value`) in its environment, until there is none.

    Where there is no `/proc` nothing is found.
    """
    deadline = time.monotonic() + GONE_S
    while by_environment.kill_with(entry) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def table_of_kernel() -> Table:
    """All processes, from `/proc`."""
    rows: Table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):
                # The name in parentheses may hold anything: 0 is the state, 1 the parent, 2 the group after it.
                fields = Path(f"/proc/{entry.name}/stat").read_bytes().rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X"):
                    rows[int(entry.name)] = (int(fields[1]), int(fields[2]), None)
    return rows


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def table_of_ps() -> Table:
    """All processes, where there is no `/proc`."""
    shown = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,args="], capture_output=True, text=True, check=False
    )
    rows: Table = {}
    for line in shown.stdout.splitlines():
        pid, parent, group, state, words = [*line.split(None, 4), ""][:5]
        if not state.startswith("Z"):
            rows[int(pid)] = (int(parent), int(group), words)
    return rows


table = table_of_kernel if sys.platform == "linux" else table_of_ps
