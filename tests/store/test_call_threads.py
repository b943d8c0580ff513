"""The threads that bound the calls of a client."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from mirrorneuron.store.call_threads import CallThreads


@pytest.mark.parametrize(
    ("options", "in_a_thread"),
    [
        pytest.param({}, False, id="no threads"),
        pytest.param({"enable-threads": "false"}, False, id="disabled"),
        pytest.param({"enable-threads": True}, True, id="enabled"),
        pytest.param({"threads": b"4"}, True, id="a number of threads"),
    ],
)
def test_a_call_in_uwsgi_uses_a_thread_only_where_threads_run(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], in_a_thread: bool
) -> None:
    """Without `enable-threads` a thread that is started there never runs, and the call would time out."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=options))
    assert (CallThreads().run(threading.get_ident, 30) != threading.get_ident()) is in_a_thread


def test_a_call_elsewhere_uses_a_thread() -> None:
    assert "uwsgi" not in sys.modules
    assert CallThreads().run(threading.get_ident, 30) != threading.get_ident()


def test_threads_are_used_again_and_no_more_are_started_than_allowed() -> None:
    calls = CallThreads(3)
    idents = {calls.run(threading.get_ident, 30) for _ in range(50)}
    assert len(idents) <= 3
    with ThreadPoolExecutor(20) as callers:
        idents |= set(callers.map(lambda _: calls.run(threading.get_ident, 30), range(200)))
    assert len(idents) <= 3


def test_a_call_that_an_exception_interrupts_harms_no_other_one() -> None:
    """An exception of a signal handler comes at any point of the caller's code."""
    calls, rounds = CallThreads(2), 300

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        interrupted = 0
        for number in range(rounds):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + 0.000002 * (number % 50))
                while True:
                    assert calls.run(partial(int, number), 30) == number
            except Interrupted:
                interrupted += 1
            assert calls.run(partial(int, -number), 30) == -number
        assert interrupted == rounds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
