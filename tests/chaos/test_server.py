"""The stage's server stands still, dies and comes back when it is told to, and not only in words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from mirrorneuron.chaos.server import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, os.environ)
    made.start()
    yield made
    made.kill()


def asked(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=0.5, retry=None)


def test_a_frozen_server_answers_nothing_until_it_is_thawed(server: Server):
    assert asked(server).ping()
    server.freeze()
    assert not server.answers
    with pytest.raises(redis.TimeoutError):
        asked(server).ping()
    server.thaw()
    assert server.answers
    server.thaw()
    assert asked(server).ping()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_killed_server_comes_back_at_the_same_place_with_all_that_it_knew(server: Server, frozen: bool):
    asked(server).set("key", "value")
    url = server.url
    if frozen:
        server.freeze()
    server.kill()
    assert not server.answers
    with pytest.raises(redis.ConnectionError):
        asked(server).ping()
    server.start()
    assert (server.url, server.answers) == (url, True)
    assert asked(server).get("key") == b"value"
