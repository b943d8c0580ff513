"""Reads in the caller's own thread: on an open connection, with the same result and time-outs as in another thread."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.errors import JobNotFound, RuntimeUnavailable
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import connect
from mirrorneuron.store.direct_line import MOST, DirectLine, NotDirect
from tests.support.graphs import finish, line
from tests.support.valkey import ValkeyServer

SOON_S = 4.0  # less than one time-out of a socket


@pytest.fixture
def client(own_server: ValkeyServer) -> Client:
    """A client of a server of its own, with an open connection, and two jobs: `one` has ended, `two` has not."""
    client = Client(Settings(redis_url=own_server.url))
    for job_id in ("one", "two"):
        client.run_manifest(line(3), job_id=job_id)
    finish(client, "one")
    for _ in range(2):
        client.inspect_job("one")
    assert direct(client)
    return client


def direct(client: Client) -> bool:
    """True if a call now needs no other thread."""
    with pytest.MonkeyPatch.context() as patch:
        calls = client._live_parts().store.calls
        patch.setattr(calls, "run", lambda *_: (_ for _ in ()).throw(NotDirect))
        try:
            return client.inspect_job("one")["status"] == "cancelled"
        except NotDirect:
            return False


def test_calls_need_no_other_thread_once_a_connection_is_open(client: Client) -> None:
    fresh = Client(client.settings)
    assert not direct(fresh)
    for _ in range(2):
        assert fresh.wait_for_job("one")["status"] == "cancelled"
    assert direct(fresh)
    with pytest.raises(JobNotFound):
        fresh.wait_for_job("none")
    assert fresh.inspect_job("two")["status"] == "pending"
    assert direct(fresh)


@pytest.mark.parametrize("lost", ["killed", "restarted", "closed"])
def test_a_lost_connection_costs_no_call(client: Client, own_server: ValkeyServer, lost: str) -> None:
    if lost == "killed":
        own_server.client.client_kill_filter(_type="normal", skipme=True)
    elif lost == "restarted":
        own_server.kill()
        own_server.start()
    else:
        client._live_parts().store.close()
    assert not direct(client)
    for _ in range(2):
        assert client.wait_for_job("one")["status"] == "cancelled"
    assert direct(client)


def test_a_connection_that_was_idle_is_checked_in_another_thread(client: Client) -> None:
    """A firewall may have dropped it: a command on it would wait for its time-out."""
    line = client._live_parts().store.direct
    (connection,) = line._open
    connection.next_health_check = 0.0
    assert not direct(client)
    assert client.inspect_job("one")["status"] == "cancelled"
    assert list(line._open) == [connection]
    assert direct(client)


@pytest.mark.parametrize("timeout_ms", [300, 1_500])
def test_a_frozen_server_is_no_longer_waited_for_than_the_time_out(
    client: Client, own_server: ValkeyServer, timeout_ms: int
) -> None:
    short = Client(client.settings.model_copy(update={"client_timeout_ms": timeout_ms}))
    for _ in range(3):
        short.inspect_job("one")
    assert direct(short)
    own_server.freeze()
    began = time.monotonic()
    with pytest.raises(RuntimeUnavailable, match="no answer within") as caught:
        short.inspect_job("one")
    assert timeout_ms / 1000 <= time.monotonic() - began < SOON_S
    assert caught.value.job_id == "one"
    own_server.thaw()
    assert short.inspect_job("one")["status"] == "cancelled"


class Interruption(BaseException):
    """As Celery's soft time limit, or Ctrl-C."""


def test_a_reply_that_an_exception_of_a_signal_handler_leaves_behind_is_nobodys(
    client: Client, own_server: ValkeyServer
) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    own_server.freeze()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interruption):
            client.inspect_job("one")
    finally:
        signal.signal(signal.SIGALRM, before)
        own_server.thaw()
    for job_id in ("two", "one", "two"):
        assert client.inspect_job(job_id)["job_id"] == job_id


def test_a_refusal_is_the_same_as_in_another_thread(client: Client, own_server: ValkeyServer) -> None:
    store = client._live_parts().store
    store.client.set(store.keys.job("text"), "x")
    with pytest.raises(RuntimeUnavailable, match=r"refused: .*WRONGTYPE"):
        client.inspect_job("text")
    for _ in range(2):
        client.inspect_job("one")
    assert direct(client)


def test_many_threads_share_few_connections(client: Client, own_server: ValkeyServer) -> None:
    with ThreadPoolExecutor(40) as threads:
        ids = ["one", "two"] * 200
        assert [job["job_id"] for job in threads.map(client.inspect_job, ids)] == ids
    assert 1 <= len(client._live_parts().store.direct._open) <= MOST


def test_a_url_with_few_connections_keeps_them_for_the_other_threads(redis_url: str) -> None:
    assert DirectLine(connect(f"{redis_url}?max_connections=7")).most == 0
    assert DirectLine(connect(f"{redis_url}?max_connections=16")).most == 2
    few = Client(Settings(redis_url=f"{redis_url}?max_connections=4", redis_namespace="few"))
    few.run_manifest(line(3), job_id="j")
    for _ in range(3):
        assert few.inspect_job("j")["status"] == "pending"
    assert not few._live_parts().store.direct._open


def test_a_child_process_has_connections_of_its_own(client: Client) -> None:
    child = os.fork()
    if not child:
        ok = False
        try:
            ok = all(client.inspect_job("two")["job_id"] == "two" for _ in range(50))
        finally:
            os._exit(0 if ok else 1)
    found: list[Any] = [client.inspect_job("one")["job_id"] for _ in range(50)]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert found == ["one"] * 50
