"""The announcement of a feed is really lost, and its messages are counted."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirrorneuron.chaos import feed as feed_module
from mirrorneuron.chaos.feed import Feed
from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.valkey import ValkeyServer


@pytest.mark.parametrize("opening", [True, False])
def test_no_node_hears_of_a_lost_announcement(
    own_server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opening: bool
):
    """Without a node the queue holds what a node would hear of."""
    settings = Settings(redis_url=own_server.url, temp_dir=tmp_path)
    monkeypatch.setattr(feed_module, "EVERY_S", 3_600.0)
    threads = set(threading.enumerate())
    feed = Feed(SimpleNamespace(settings=settings, folder=tmp_path), "feed", opening=opening)  # type: ignore[arg-type]
    feed.submit()
    feed.submit()
    store = Store(settings)
    name = queue(settings.redis_namespace, LIGHT)
    assert store.client.llen(name) == (0 if opening else 2)
    if not opening:  # as if a node had run the first message
        store.client.hset(store.keys.agent("feed", "source"), "processed", 1)
    feed.go_on()
    feed.go_on()  # not due yet
    assert feed.expected.processed == {"source": 2, "gate": 1}
    assert store.client.llen(name) == (0 if opening else 2)
    assert store.client.llen(store.keys.mail("feed", "source")) == 2
    store.client.close()
    assert set(threading.enumerate()) <= threads, "the crash test forks"
