"""The server of the stage is really frozen, killed and restarted."""

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


def client_of(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=0.5, retry=None)


def test_a_frozen_server_does_not_answer_until_it_is_thawed(server: Server):
    assert client_of(server).ping()
    server.freeze()
    assert not server.answers
    with pytest.raises(redis.TimeoutError):
        client_of(server).ping()
    server.thaw()
    assert server.answers
    server.thaw()
    assert client_of(server).ping()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_killed_server_restarts_at_the_same_url_with_its_data(server: Server, frozen: bool):
    client_of(server).set("key", "value")
    url = server.url
    if frozen:
        server.freeze()
    server.kill()
    assert not server.answers
    with pytest.raises(redis.ConnectionError):
        client_of(server).ping()
    server.start()
    assert (server.url, server.answers) == (url, True)
    assert client_of(server).get("key") == b"value"
