"""A worker's main process forks only while its threads are in the middle of nothing."""

from __future__ import annotations

import os
import threading

import pytest

from tests.support.waiting import wait_until
from workers.forking import FORKS


class Thread:
    """One that holds a lock in the middle of its work until it may go on, as an import does."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.works, self.goes_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        assert self.works.wait(30)

    def _work(self) -> None:
        with FORKS.held_off():
            with self.lock:
                self.works.set()
                self.goes_on.wait()
            FORKS.give_way()
            with self.lock:
                pass

    def end(self) -> None:
        self.goes_on.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def forked_with(lock: threading.Lock) -> bool:
    """Fork; is *lock* held in the child, where nobody will ever let go of it?"""
    child = os.fork()
    if not child:
        os._exit(lock.locked())
    return bool(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_a_fork_waits_for_what_threads_are_at() -> None:
    busy = Thread()

    def go_on() -> None:
        wait_until(lambda: FORKS.waiting)
        busy.goes_on.set()

    beside = threading.Thread(target=go_on, daemon=True)
    beside.start()
    assert not forked_with(busy.lock)
    busy.end()
    beside.join(30)


def test_work_that_has_not_begun_waits_for_a_fork() -> None:
    """Else threads that take turns would hold it off for ever."""
    busy, begun = Thread(), []

    def begin() -> None:
        wait_until(lambda: FORKS.waiting)
        threading.Timer(0.05, busy.goes_on.set).start()
        with FORKS.held_off():
            begun.append(FORKS.waiting)

    beside = threading.Thread(target=begin, daemon=True)
    beside.start()
    assert not forked_with(busy.lock)
    beside.join(30)
    assert begun == [False]
    busy.end()


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(FORKS, "patience_s", 0.01)
    busy = Thread()
    assert forked_with(busy.lock)
    assert "forked beside 1 threads at work" in caplog.text
    busy.end()


def test_a_child_may_fork_and_work_as_if_nothing_had_been(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORKS, "patience_s", 0.01)
    busy = Thread()
    child = os.fork()
    if not child:
        with FORKS.held_off():
            pass
        os._exit(forked_with(threading.Lock()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    busy.end()
