"""The processes of a stage: start them, list the descendants of one, and kill all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from celery.platforms import set_pdeathsig

from mirrorneuron.processes import by_environment

GONE_S: Final = 10.0  #: how long killed processes may take to disappear
POLL_S: Final = 0.02
DEAD: Final = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@dataclass(frozen=True, slots=True)
class Seen:
    """One process at the time of a snapshot."""

    pid: int
    parent: int
    group: int
    depth: int  #: 1 for the children of the root
    words: str  #: its command line

    @property
    def leads(self) -> bool:
        """Does the process lead a process group?"""
        return self.group == self.pid


def start(argv: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that dies with the calling thread (on Linux). Its output is appended to *log*."""
    with log.open("ab") as said:
        return subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C at the terminal does not reach it
            preexec_fn=lambda: set_pdeathsig("SIGKILL"),  # safe: the crash test has no other thread
        )


def beneath(root: int) -> list[Seen]:
    """Return all descendants of process *root*, by depth, then by pid. Zombies are left out."""
    try:
        found = psutil.Process(root).children(recursive=True)
    except psutil.Error:
        return []
    depths = {root: 0}
    rows: list[Seen] = []
    for process in found:  # a parent stands before its children
        with suppress(psutil.Error, OSError), process.oneshot():
            parent = process.ppid()
            if process.status() in DEAD or parent not in depths:  # a process whose parent has died has another parent
                continue
            group, words, depth = os.getpgid(process.pid), " ".join(process.cmdline()), depths[parent] + 1
            depths[process.pid] = depth
            rows.append(Seen(process.pid, parent, group, depth, words))
    return sorted(rows, key=lambda row: (row.depth, row.pid))


def kill(pid: int) -> None:
    """Kill one process. A process that has already ended is not an error."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> bool:
    """Send SIGSTOP to one process, and return True once it has stopped.

    Returns False if it has ended, or was stopped already: then another caller will resume it.
    """
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_STOPPED:
            return False
        process.suspend()
        while (status := process.status()) not in DEAD:
            if status == psutil.STATUS_STOPPED:
                return True
            time.sleep(POLL_S)
    return False


def resume(pid: int) -> None:
    """Send SIGCONT to one process. A process that has already ended is not an error."""
    with suppress(psutil.Error):
        psutil.Process(pid).resume()


def kill_all_with(entry: str) -> None:
    """Kill every process with *entry* (`NAME=value`) in its environment, until none is left or `GONE_S` are over."""
    deadline = time.monotonic() + GONE_S
    while by_environment.kill_with(entry) and time.monotonic() < deadline:
        time.sleep(POLL_S)
