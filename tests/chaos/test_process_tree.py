"""Listing the descendants of a process, and killing all processes with the same environment entry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from mirrorneuron.chaos import process_tree
from mirrorneuron.chaos.process_tree import Seen
from mirrorneuron.processes.groups import kill_group
from tests.support.waiting import wait_until

ENTRY = f"MN_CHAOS_TEST={os.getpid()}"


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[bytes]]:
    """A shell whose child is a shell that waits for a child of its own."""
    name, _, value = ENTRY.partition("=")
    inner = "sh -c 'sleep 600; :' inner; :"
    started = subprocess.Popen(["sh", "-c", inner], env={**os.environ, name: value}, start_new_session=True)
    yield started
    kill_group(started.pid)
    started.wait()


def family(pid: int) -> list[Seen]:
    """Wait until both descendants of the shell run, and return them."""

    def found() -> list[Seen]:
        seen = process_tree.beneath(pid)
        return seen if len(seen) == 2 and seen[-1].words.strip() == "sleep 600" else []

    return wait_until(found)


def test_descendants_are_listed_by_depth(shell):
    child, grandchild = family(shell.pid)
    assert (child.parent, child.group, child.depth, child.leads) == (shell.pid, shell.pid, 1, False)
    assert (grandchild.parent, grandchild.depth) == (child.pid, 2)
    assert "inner" in child.words
    assert grandchild.words.strip() == "sleep 600"
    assert process_tree.beneath(grandchild.pid) == []


def test_a_killed_descendant_is_not_listed(shell):
    _, grandchild = family(shell.pid)
    process_tree.kill(grandchild.pid)
    wait_until(lambda: not process_tree.beneath(shell.pid))
    process_tree.kill(grandchild.pid)  # has ended already: not an error


def test_a_stopped_process_has_stopped_until_it_is_resumed(shell):
    _, grandchild = family(shell.pid)
    seen = psutil.Process(grandchild.pid)
    assert process_tree.stop(grandchild.pid)
    assert seen.status() == psutil.STATUS_STOPPED
    assert not process_tree.stop(grandchild.pid), "another caller will resume it"
    process_tree.resume(grandchild.pid)
    wait_until(lambda: seen.status() != psutil.STATUS_STOPPED)
    process_tree.kill(grandchild.pid)
    wait_until(lambda: not process_tree.beneath(shell.pid))
    assert not process_tree.stop(grandchild.pid)
    process_tree.resume(grandchild.pid)  # has ended already: not an error


@pytest.mark.skipif(sys.platform != "linux", reason="checked on Linux only")
def test_all_processes_with_the_same_environment_entry_are_killed(shell):
    family(shell.pid)
    process_tree.kill_all_with(ENTRY + "0")
    assert shell.poll() is None
    process_tree.kill_all_with(ENTRY)
    assert shell.wait() == -9
    assert process_tree.beneath(shell.pid) == []
