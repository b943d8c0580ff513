"""A worker's registration: renewed whatever happens while the worker lives, and gone with it."""

from __future__ import annotations

import threading

import pytest

from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.node import registration as node_module
from workers.node.registration import NodeStep


def test_a_heart_that_missed_a_beat_beats_on(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that does not let it register is no server that is away."""
    monkeypatch.setattr(node_module, "HEARTBEAT_S", 0.01)
    store = Store(Settings(redis_url=own_server.url), retries=0)
    step = object.__new__(NodeStep)
    step._stop = threading.Event()
    own_server.client.execute_command("ACL", "SETUSER", "default", "-zadd", "-set")
    described = {"name": "worker@test", "pools": {}}
    beating = threading.Thread(target=step._beat, args=(store, described, {}), daemon=True)
    beating.start()
    wait_until(lambda: caplog.text.count("the heartbeat failed") >= 2)
    registration = store.keys.node("worker@test")
    assert not store.client.exists(registration)
    own_server.client.execute_command("ACL", "SETUSER", "default", "+zadd", "+set")
    wait_until(lambda: store.client.exists(registration))
    step._stop.set()
    beating.join(30)
    assert not store.client.exists(registration)
    store.client.close()
