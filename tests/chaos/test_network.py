"""A network is really slow, cut or half-open, and its proxy ends with it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from mirrorneuron.chaos.network import Network
from mirrorneuron.errors import RuntimeUnavailable
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


@pytest.fixture
def network(own_server: ValkeyServer) -> Iterator[Network]:
    made = Network(own_server.port, os.environ)
    yield made
    made.close()


def client_of(network: Network) -> redis.Redis:
    client = redis.Redis(port=network.port, socket_timeout=1, retry=None)
    assert client.ping()
    return client


def test_dead_connections_stay_open_and_new_ones_work(network: Network):
    client = client_of(network)
    assert network.make_dead() == 1
    assert network.make_dead() == 0, "it is dead already"
    with pytest.raises(redis.TimeoutError):
        client.ping()
    assert client_of(network).ping()


def test_a_request_whose_reply_is_cut_was_carried_out(network: Network, own_server: ValkeyServer):
    client, replies = client_of(network), []

    def count_until_cut() -> None:
        while True:
            replies.append(client.incr("carried_out"))

    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(network.cut_replies)
        with pytest.raises(redis.ConnectionError):
            count_until_cut()
        assert cut.result() == 1
    assert int(redis.Redis(port=own_server.port).get("carried_out") or 0) == len(replies) + 1


def test_without_a_reply_nothing_is_cut(network: Network):
    assert network.cut_replies() == 0


def test_a_slow_network_delays_both_directions(network: Network):
    client = client_of(network)

    def round_trip_s() -> float:
        began = time.monotonic()
        client.ping()
        return time.monotonic() - began

    assert network.slow_down(0.1) == 1
    assert round_trip_s() >= 0.2
    assert network.is_slow
    network.slow_down(0)
    assert not network.is_slow
    wait_until(lambda: round_trip_s() < 0.2)


def test_a_proxy_that_has_ended_is_reported(network: Network):
    network._process.kill()
    with pytest.raises(RuntimeUnavailable, match="has ended by itself"):
        network.make_dead()


def test_a_proxy_ends_with_its_parent(network: Network):
    assert network._process.stdin is not None
    network._process.stdin.close()
    assert network._process.wait() == 0
