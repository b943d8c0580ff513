"""The registration of a worker: renewed while the worker runs, and removed when it ends."""

from __future__ import annotations

import threading

import pytest

from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.node import registration as registration_module
from workers.node.registration import NodeStep


def test_the_heartbeat_continues_after_a_failed_one(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server answers, but refuses the write."""
    monkeypatch.setattr(registration_module, "HEARTBEAT_S", 0.01)
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
