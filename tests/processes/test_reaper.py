"""A node that is process 1 of its container reaps what its commands leave behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Makes this process the parent of orphans, as process 1 is, and leaves five; counts its zombies by their parent.
ADOPTING = """
import ctypes, os, signal, subprocess, sys, time
import psutil
ctypes.CDLL(None).prctl(36, 1)
LEAVE = "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done"
def zombies():
    return [one for one in psutil.Process().children() if one.status() == psutil.STATUS_ZOMBIE]
def wait_until(fact):
    while not fact():
        time.sleep(0.01)
"""

REAPING = f"""{ADOPTING}
from mirrorneuron.processes.reaper import reap_orphans
subprocess.run(["sh", "-c", LEAVE])
wait_until(lambda: len(zombies()) == 5)
own = subprocess.Popen(["sh", "-c", "exit 7"])
wait_until(lambda: len(zombies()) == 6)
print(reap_orphans([own.pid]), own.wait(), reap_orphans([]), reap_orphans([]))
"""

SUPERVISING = f"""{ADOPTING}
import threading
from workers.node import supervisor
def check():
    wait_until(lambda: len(psutil.Process().children(recursive=True)) > 3)
    wait_until(lambda: len(psutil.Process().children()) == 1 and not zombies())
    print("reaped", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=check, daemon=True).start()
spec = supervisor.WorkerSpec("a", ("sh", "-c", LEAVE.replace("0.1", "1") + "; exec sleep 60"))
sys.exit(supervisor.run([spec], stop_grace_s=5))
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")


def printed(code: str) -> list[str]:
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


@linux
def test_orphans_are_reaped_and_the_exit_codes_of_own_children_are_kept():
    reaped, code, rest, nothing = map(int, printed(REAPING))
    assert (reaped + rest, code, nothing) == (5, 7, 0)


@linux
def test_the_supervisor_reaps_orphans_as_they_end():
    assert printed(SUPERVISING) == ["reaped"]
