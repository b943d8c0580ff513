"""Signals to a process group."""

from __future__ import annotations

import signal
import subprocess

from mirrorneuron.processes.groups import kill_group


def test_every_process_of_the_group_is_killed():
    """The pipe ends when the last process that holds it has ended."""
    words = ["sh", "-c", "sleep 600 & sleep 600; :"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        kill_group(leader.pid)
        assert leader.stdout.read() == b""
        assert leader.wait() == -signal.SIGKILL


def test_another_signal_can_be_sent():
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as leader:
        kill_group(leader.pid, signal.SIGTERM)
        assert leader.wait() == -signal.SIGTERM


def test_a_group_that_has_ended_is_not_an_error():
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as leader:
        kill_group(leader.pid)
        leader.wait()
        kill_group(leader.pid)
