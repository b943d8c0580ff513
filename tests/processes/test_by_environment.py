"""Finding and killing processes by an environment variable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from mirrorneuron.processes.by_environment import kill_with, pids_with

NAME = f"MN_TEST_{os.getpid()}"
SLEEPER = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]


@pytest.fixture
def start() -> Iterator[Callable[[str], int]]:
    """Start a process with the value in its environment, in a session of its own, and return its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(value: str) -> int:
        child = subprocess.Popen(
            SLEEPER, env={**os.environ, NAME: value}, stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_a_process_is_found_by_the_whole_value(start):
    pid = start("one")
    start("one more")
    start("no one")
    assert pids_with(f"{NAME}=one") == [pid]


def test_a_process_is_found_by_the_beginning_of_the_value(start):
    wanted = [start("one"), start("one more")]
    start("no one")
    assert sorted(pids_with(f"{NAME}=one", prefix=True)) == sorted(wanted)


def test_a_value_may_contain_equal_signs_and_any_byte(start):
    value = os.fsdecode(b"a=b\xff\xc3")
    pid = start(value)
    assert pids_with(f"{NAME}={value}") == [pid]


def test_a_variable_without_a_value_is_not_an_absent_variable(start):
    pid = start("")
    assert pids_with(f"{NAME}=") == [pid]
    assert pid not in pids_with(f"{NAME}_OTHER=")


def test_only_the_processes_with_the_entry_are_killed(start):
    killed, other = start("one"), start("two")
    assert kill_with(f"{NAME}=one")
    psutil.Process(killed).wait(timeout=30)
    assert psutil.Process(other).is_running()
    assert pids_with(f"{NAME}=two") == [other]
    assert not kill_with(f"{NAME}=one")


def test_a_zombie_is_not_found(start):
    pid = start("one")
    assert kill_with(f"{NAME}=one")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    assert pids_with(f"{NAME}=one") == []


@pytest.mark.parametrize("error", [psutil.AccessDenied(), psutil.NoSuchProcess(1), PermissionError(), OSError()])
def test_a_process_that_cannot_be_read_is_left_out(start, monkeypatch, error):
    """That of another user, or one that ends during the search."""
    hidden, pid = start("one"), start("one")
    read = psutil.Process.environ

    def environ(process: psutil.Process) -> dict[str, str]:
        if process.pid == hidden:
            raise error
        return read(process)

    monkeypatch.setattr(psutil.Process, "environ", environ)
    assert pids_with(f"{NAME}=one") == [pid]


def test_a_pid_that_was_reused_during_the_search_is_not_killed(start, monkeypatch):
    """The process that was found has ended, and another one has its pid when the kill comes."""
    pid = start("one")
    read = psutil.Process.environ

    def environ(process: psutil.Process) -> dict[str, str]:
        found = read(process)
        if process.pid == pid:
            process._ident = (pid, 0.0)  # type: ignore[attr-defined]  # the start of a process before this one
        return found

    monkeypatch.setattr(psutil.Process, "environ", environ)
    kill_with(f"{NAME}=one")
    assert pids_with(f"{NAME}=one") == [pid]
