"""The threads that bound the calls of a client."""

from __future__ import annotations

import sys
import threading
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
