"""The server of the stage is really frozen, killed, restarted and set back, and really refuses writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from mirrorneuron.chaos.server import REFUSALS, Server


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


def test_a_server_goes_back_to_its_data_of_an_earlier_time(server: Server):
    client_of(server).set("kept", "value")
    past = server.remember()
    client_of(server).set("kept", "changed")
    client_of(server).set("lost", "value")
    server.kill()
    server.go_back(past)
    server.start()
    assert client_of(server).mget("kept", "lost") == [b"value", None]
    assert not past.exists(), "it is used up"
    past = server.remember()
    server.kill()
    server.go_back(past)
    server.start()
    assert client_of(server).get("kept") == b"value"


@pytest.mark.parametrize("setting", REFUSALS)
def test_writes_are_refused_and_counted_until_they_are_taken_again(server: Server, setting: str):
    server.refuse_writes(setting)
    assert (server.answers, server.takes_writes) == (True, False)
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match=r"maxmemory|enough good replicas"):
            client_of(server).set("key", "value")
    assert client_of(server).get("key") is None
    assert server.take_writes() == 2
    assert server.takes_writes
    client_of(server).set("key", "value")


def test_a_restarted_server_refuses_nothing(server: Server):
    server.refuse_writes(REFUSALS[0])
    server.kill()
    server.start()
    assert server.takes_writes
    client_of(server).set("key", "value")
    assert server.take_writes() == 0
