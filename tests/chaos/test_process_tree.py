"""Finding what runs beneath a process, and the end of all that belongs together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mirrorneuron.chaos import process_tree
from mirrorneuron.chaos.process_tree import Seen
from mirrorneuron.processes.groups import kill_group
from tests.support.waiting import wait_until

ENTRY = f"MN_CHAOS_TEST={os.getpid()}"


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[bytes]]:
    """A shell with a shell beneath it, which waits for its own child."""
    name, _, value = ENTRY.partition("=")
    inner = "sh -c 'sleep 600; :' inner; :"
    started = subprocess.Popen(["sh", "-c", inner], env={**os.environ, name: value}, start_new_session=True)
    yield started
    kill_group(started.pid)
    started.wait()


def family(pid: int) -> list[Seen]:
    """The shells' descendants, once they are all there and the last is what it shall be."""

    def found() -> list[Seen]:
        seen = process_tree.beneath(pid)
        return seen if len(seen) == 2 and seen[-1].words.strip() == "sleep 600" else []

    return wait_until(found)


def test_descendants_are_found_by_depth(shell):
    child, grandchild = family(shell.pid)
    assert (child.parent, child.group, child.depth, child.leads) == (shell.pid, shell.pid, 1, False)
    assert (grandchild.parent, grandchild.depth) == (child.pid, 2)
    assert "inner" in child.words
    assert grandchild.words.strip() == "sleep 600"
    assert process_tree.beneath(grandchild.pid) == []


def test_the_dead_are_not_found(shell):
    _, grandchild = family(shell.pid)
    process_tree.kill(grandchild.pid)
    wait_until(lambda: not process_tree.beneath(shell.pid))
    process_tree.kill(grandchild.pid)  # no error, though it is gone


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_all_with_the_same_environment_are_killed(shell):
    family(shell.pid)
    process_tree.kill_all_with(ENTRY + "0")
    assert shell.poll() is None
    process_tree.kill_all_with(ENTRY)
    assert shell.wait() == -9
    assert process_tree.beneath(shell.pid) == []
