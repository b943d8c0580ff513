"""Processes of a node hide their memory and environment from other processes of their user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a request to the Linux kernel")

#: A process without root's rights, which forks another one that tries to read it.
PROGRAM = """
import ctypes, os, subprocess, sys
import psutil
from mirrorneuron.processes import identity
from mirrorneuron.processes.private_memory import keep_private

def readable():
    sys.stdout.flush()
    if child := os.fork():
        return not os.waitpid(child, 0)[1]
    try:
        open(f"/proc/{os.getppid()}/environ", "rb").read(1)
        open(f"/proc/{os.getppid()}/mem", "rb")
    except OSError:
        os._exit(1)
    os._exit(0)

if not os.getuid():
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1)  # the change of the user has made it private already
before = readable()
keep_private()
me = psutil.Process()
shown = subprocess.run(["/bin/cat", "/proc/self/environ"], env={"A": "b"}, capture_output=True).stdout
print(before, readable(), shown)
print(len(me.cmdline()), me.num_fds() > 2, identity.alive(identity.find(os.getpid())), me.memory_info().rss > 0)
"""


def test_only_root_can_read_a_private_process() -> None:
    """It can still be found, and the programs that it executes are ordinary processes."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["True False b'A=b\\x00'", "3 True True True"], ended.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import workers.tasks",
        "import runpy, contextlib; sys.argv[1:] = ['celery', '--version']\n"
        "with contextlib.suppress(SystemExit): runpy.run_path('workers/__main__.py', run_name='__main__')",
        "from mirrorneuron.cli.commands import dashboard, up\n"
        "def found(*_): raise SystemExit(int(flag() != 0))\n"
        "dashboard.target.find = up.check_free = found\n"
        "{'dashboard': dashboard.dashboard, 'up': up.up}['dashboard']()",
        "from mirrorneuron.cli.commands import up\n"
        "def found(*_): raise SystemExit(int(flag() != 0))\n"
        "up.check_free = found\n"
        "up.up()",
    ],
    ids=["tasks", "program", "dashboard", "up"],
)
def test_the_programs_of_a_node_become_private(code: str) -> None:
    look = f"import ctypes, sys\nflag = lambda: ctypes.CDLL(None).prctl(3)\n{code}\nsys.exit(int(flag() != 0))"
    ended = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
