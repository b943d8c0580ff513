"""The server of the stage is really frozen, killed, restarted and set back, and really refuses writes."""

from __future__ import annotations

import pytest
import redis

from mirrorneuron.chaos.server import REFUSALS, Server


def client_of(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=0.5, retry=None)


def test_a_frozen_server_does_not_answer_until_it_is_thawed(stage_server: Server):
    assert client_of(stage_server).ping()
    stage_server.freeze()
    assert not stage_server.answers
    with pytest.raises(redis.TimeoutError):
        client_of(stage_server).ping()
    stage_server.thaw()
    assert stage_server.answers
    stage_server.thaw()
    assert client_of(stage_server).ping()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_killed_server_restarts_at_the_same_url_with_its_data(stage_server: Server, frozen: bool):
    client_of(stage_server).set("key", "value")
    url = stage_server.url
    if frozen:
        stage_server.freeze()
    stage_server.kill()
    assert not stage_server.answers
    with pytest.raises(redis.ConnectionError):
        client_of(stage_server).ping()
    stage_server.start()
    assert (stage_server.url, stage_server.answers) == (url, True)
    assert client_of(stage_server).get("key") == b"value"


def test_a_server_goes_back_to_its_data_of_an_earlier_time(stage_server: Server):
    client_of(stage_server).set("kept", "value")
    past = stage_server.remember()
    client_of(stage_server).set("kept", "changed")
    client_of(stage_server).set("lost", "value")
    stage_server.kill()
    stage_server.go_back(past)
    stage_server.start()
    assert client_of(stage_server).mget("kept", "lost") == [b"value", None]
    assert not past.exists(), "it is used up"
    past = stage_server.remember()
    stage_server.kill()
    stage_server.go_back(past)
    stage_server.start()
    assert client_of(stage_server).get("kept") == b"value"


@pytest.mark.parametrize("setting", REFUSALS)
def test_writes_are_refused_and_counted_until_they_are_taken_again(stage_server: Server, setting: str):
    stage_server.refuse_writes(setting)
    assert (stage_server.answers, stage_server.takes_writes) == (True, False)
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match=r"maxmemory|enough good replicas"):
            client_of(stage_server).set("key", "value")
    assert client_of(stage_server).get("key") is None
    assert stage_server.take_writes() == 2
    assert stage_server.takes_writes
    client_of(stage_server).set("key", "value")


def test_a_restarted_server_refuses_nothing(stage_server: Server):
    stage_server.refuse_writes(REFUSALS[0])
    stage_server.kill()
    stage_server.start()
    assert stage_server.takes_writes
    client_of(stage_server).set("key", "value")
    assert stage_server.take_writes() == 0
