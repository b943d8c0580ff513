"""A command starts as in a shell, whatever the process that started the node had changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from tests.support.graphs import completed, failed, single

STATUS = "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | head -3 | xargs; umask; ulimit -n"

#: Ignores and blocks signals, cleans them, and then prints the signal lines of a child.
CLEANED = """
import signal, subprocess
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR2, signal.SIGCHLD})
from workers.lifecycle.inherited_state import clean_signals
clean_signals()
signal.raise_signal(signal.SIGINT)  # still ignored here
print(subprocess.run(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], capture_output=True, text=True).stdout)
print(subprocess.run(["false"]).returncode)  # an ignored SIGCHLD would lose it
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def ignored_signals(mask: str) -> int:
    """A mask of /proc without signals 32 and 33, which the C library keeps for itself and lets no program change."""
    return int(mask, 16) & ~(0b11 << 31)


@linux
def test_a_command_inherits_neither_ignored_nor_blocked_signals():
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run([sys.executable, "-c", CLEANED], capture_output=True, text=True, cwd=root, check=True).stdout
    _, blocked, _, ignored, code = told.split()
    assert (int(blocked, 16), ignored_signals(ignored), code) == (0, 0, "1")


@linux
def test_a_command_of_a_node_starts_as_in_a_shell(client: Client):
    """Signals are not ignored, only 0, 1 and 2 are open, and umask and limits are those of the node."""
    sandbox = completed(client, single(STATUS))["sandbox"]
    umask = os.umask(0)
    os.umask(umask)
    here = subprocess.run(["sh", "-c", "ulimit -n"], capture_output=True, text=True, check=True).stdout.strip()
    _, blocked, _, ignored, *rest = sandbox["stdout"].split()
    assert (int(blocked, 16), ignored_signals(ignored)) == (0, 0)
    assert rest == ["0", "1", "2", f"{umask:04o}", here]


def test_sigint_ends_a_command(client: Client):
    assert "SIGINT" in failed(client, single("kill -INT $$; echo survived"))["error"]


def test_a_command_can_handle_sigint(client: Client):
    script = "trap 'echo interrupted; exit 0' INT; kill -INT $$; echo survived"
    assert completed(client, single(script))["sandbox"]["stdout"] == "interrupted\n"
