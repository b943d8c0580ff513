"""A wait on a connection of its own: nothing of what a shared subscription gives is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from mirrorneuron.api import waiting
from mirrorneuron.api.client import Client
from mirrorneuron.errors import JobNotFound, WaitTimeout
from mirrorneuron.job import JobMap
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import result_channel
from tests.support.graphs import finish, line
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

NEVER_S = 3_600.0


@pytest.fixture
def client(own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client with an open connection, and the live job `j`. No record is read again without a push."""
    monkeypatch.setattr(waiting, "REREAD_S", NEVER_S)
    client = Client(Settings(redis_url=own_server.url))
    for job_id in ("other", "another", "j"):
        client.run_manifest(line(3), job_id=job_id)
    assert store_of(client).direct._open
    return client


def store_of(client: Client) -> Store:
    return client._live_parts().store


def alone(client: Client) -> bool:
    """True while a wait has a connection of its own."""
    return not store_of(client).direct._waits


def subscribers(server: ValkeyServer, job_id: str = "j") -> int:
    ((_, count),) = server.client.pubsub_numsub(result_channel(job_id))
    return int(count)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def started(threads: ThreadPoolExecutor, client: Client, server: ValkeyServer) -> Future[JobMap]:
    """A wait that is subscribed, without the shared subscription."""
    future = threads.submit(client.wait_for_job, "j", 60_000)
    wait_until(lambda: subscribers(server) or future.done())
    assert alone(client)
    assert store_of(client).ends._nudge is None
    return future


def test_a_push_ends_the_wait_and_the_connection_is_used_again(
    client: Client, own_server: ValkeyServer, threads: ThreadPoolExecutor
) -> None:
    (connection,) = store_of(client).direct._open
    future = started(threads, client, own_server)
    finish(client, "j")
    assert future.result(30)["status"] == "cancelled"
    assert connection in store_of(client).direct._open
    assert (subscribers(own_server), alone(client)) == (0, False)
    for job_id in ("other", "j", "another"):
        assert client.inspect_job(job_id)["job_id"] == job_id


def test_a_job_that_ends_before_the_subscription_is_found_by_the_read_in_the_same_round_trip(
    client: Client, own_server: ValkeyServer
) -> None:
    finish(client, "j")
    reads = store_of(client).reads
    job = reads.awaited_job("j", lambda: pytest.fail("it waited"), 5.0)
    assert job is not None
    assert job["status"] == "cancelled"
    assert subscribers(own_server) == 0
    assert client.inspect_job("other")["job_id"] == "other"


def test_a_push_for_a_live_job_does_not_end_the_wait(
    client: Client, own_server: ValkeyServer, threads: ThreadPoolExecutor
) -> None:
    future = started(threads, client, own_server)
    for _ in range(3):
        own_server.client.publish(result_channel("j"), b"not even JSON")
    wait_until(lambda: subscribers(own_server))
    finish(client, "j")
    assert future.result(30)["status"] == "cancelled"


def test_an_end_without_a_push_is_found_by_reading_again(
    client: Client, own_server: ValkeyServer, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REREAD_S", 0.02)
    future = started(threads, client, own_server)
    store = store_of(client)
    own_server.client.hset(store.keys.job("j"), mapping={"status": "completed", "result": b'{"output":1}'})
    assert future.result(30)["status"] == "completed"


@pytest.mark.parametrize("timeout", [0, 1, 30.5])
def test_a_wait_that_times_out_leaves_a_connection_that_can_be_used(
    client: Client, own_server: ValkeyServer, timeout: Any
) -> None:
    connections = list(store_of(client).direct._open)
    for _ in range(3):
        with pytest.raises(WaitTimeout, match="'j' has not ended in time"):
            client.wait_for_job("j", timeout)
    assert list(store_of(client).direct._open) == connections
    assert subscribers(own_server) == 0
    assert client.inspect_job("other")["job_id"] == "other"


def test_a_record_that_disappears_ends_the_wait(
    client: Client, own_server: ValkeyServer, threads: ThreadPoolExecutor
) -> None:
    future = started(threads, client, own_server)
    own_server.client.delete(store_of(client).keys.job("j"))
    own_server.client.publish(result_channel("j"), b"")
    with pytest.raises(JobNotFound):
        future.result(30)


@pytest.mark.parametrize("lost", ["restarted", "killed"])
def test_a_lost_connection_ends_no_wait(
    client: Client, own_server: ValkeyServer, threads: ThreadPoolExecutor, lost: str
) -> None:
    """The shared subscription takes over."""
    future = started(threads, client, own_server)
    if lost == "restarted":
        own_server.kill()
        own_server.start()
    else:
        own_server.client.client_kill_filter(_type="pubsub", skipme=True)
    wait_until(lambda: subscribers(own_server) and not alone(client))
    finish(client, "j")
    assert future.result(30)["status"] == "cancelled"


def test_other_waits_share_a_subscription_meanwhile(
    client: Client, own_server: ValkeyServer, threads: ThreadPoolExecutor
) -> None:
    first = started(threads, client, own_server)
    others = [threads.submit(client.wait_for_job, name, 60_000) for name in ("j", "other", "another", "j")]
    waits = store_of(client).ends._waits
    wait_until(lambda: sum(len(rows) for rows in list(waits.values())) == len(others))
    assert subscribers(own_server) == 2
    for job_id in ("j", "other", "another"):
        finish(client, job_id)
    assert {future.result(30)["status"] for future in (first, *others)} == {"cancelled"}


class Interruption(BaseException):
    """As Celery's soft time limit, or Ctrl-C."""


def test_an_exception_of_a_signal_handler_ends_the_wait_and_its_subscription(
    client: Client, own_server: ValkeyServer
) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interruption):
            client.wait_for_job("j")
    finally:
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: subscribers(own_server) == 0)
    finish(client, "j")
    assert client.wait_for_job("j", 60_000)["status"] == "cancelled"
    assert not alone(client)


def test_a_server_of_the_older_protocol_gets_the_shared_subscription(own_server: ValkeyServer) -> None:
    client = Client(Settings(redis_url=f"{own_server.url}?protocol=2"))
    for job_id in ("other", "another", "j"):
        client.run_manifest(line(3), job_id=job_id)
    with ThreadPoolExecutor() as threads:
        future = threads.submit(client.wait_for_job, "j", 60_000)
        wait_until(lambda: store_of(client).ends._waits)
        assert not alone(client)
        finish(client, "j")
        assert future.result(30)["status"] == "cancelled"
    assert client.wait_for_job("j")["status"] == "cancelled"
