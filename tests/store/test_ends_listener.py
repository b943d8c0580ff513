"""One subscription for all waits of a client, in threads and event loops; no limit of a library's pool is an outage."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirrorneuron import RuntimeUnavailable, aio
from mirrorneuron.api import waiting
from mirrorneuron.api.client import Client
from mirrorneuron.settings import Settings
from mirrorneuron.store import direct_line, ends_listener
from tests.support.graphs import finish, line
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

MANY = 250  # more than redis-py allows connections by default
NEVER_S = 3_600.0


def subscribers(server: ValkeyServer) -> list[int]:
    """The number of channels of each subscribed connection."""
    return [int(row["sub"]) for row in server.client.client_list() if int(row["sub"])]


@pytest.fixture(autouse=True)
def only_pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next re-read of a record would come in an hour. No wait has a connection of its own."""
    monkeypatch.setattr(waiting, "REREAD_S", NEVER_S)
    monkeypatch.setattr(direct_line, "MOST", 0)


def test_waits_of_many_threads_and_coroutines_share_one_subscription(own_server: ValkeyServer) -> None:
    blocking = Client(Settings(redis_url=own_server.url))
    other = aio.Client(blocking.settings)
    other._own = blocking
    ids = [blocking.run_manifest(line(3)) for _ in range(5)]

    async def waits() -> list[str]:
        found = await asyncio.gather(*(other.wait_for_job(ids[number % 5]) for number in range(MANY)))
        return [job["status"] for job in found]

    with ThreadPoolExecutor(MANY + 1) as threads:
        coroutines = threads.submit(asyncio.run, waits())
        jobs = [threads.submit(blocking.wait_for_job, ids[number % 5]) for number in range(MANY)]
        waiting_for = blocking._live_parts().store.ends._waits
        wait_until(lambda: sum(len(waits) for waits in list(waiting_for.values())) == 2 * MANY)
        wait_until(lambda: subscribers(own_server) == [5])
        assert int(own_server.client.info("clients")["connected_clients"]) < 100
        for job_id in ids:
            finish(blocking, job_id)
        assert {job.result(timeout=60)["status"] for job in jobs} | set(coroutines.result(timeout=60)) == {"cancelled"}


def test_many_calls_at_once_are_not_an_outage(unserved: Client) -> None:
    with ThreadPoolExecutor(MANY) as threads:
        ids = list(threads.map(lambda number: unserved.run_manifest(line(3), job_id=f"j{number}"), range(MANY)))
        assert sorted(job["job_id"] for job in unserved.list_jobs()) == sorted(ids)
        assert len(list(threads.map(unserved.inspect_job, ids))) == MANY


def test_many_streams_at_once_take_no_connection_of_a_call(unserved: Client) -> None:
    job_id = unserved.run_manifest(line(3))
    streams = [unserved.stream_events(job_id) for _ in range(120)]
    assert {next(stream)["type"] for stream in streams} == {"job_pending"}
    assert unserved.inspect_job(job_id)["status"] == "pending"
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


def test_a_url_with_few_connections_serves_many_calls(redis_url: str) -> None:
    client = Client(Settings(redis_url=f"{redis_url}?max_connections=2", redis_namespace="few"))
    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(lambda _: client.list_jobs(), range(60))) == [[]] * 60


def test_calls_that_find_no_thread_in_time_are_told_apart_from_an_outage(redis_url: str) -> None:
    client = Client(Settings(redis_url=f"{redis_url}?max_connections=2", redis_namespace="full", client_timeout_ms=200))
    calls, begun, over = client._live_parts().store.calls, threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        over.wait(60)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(calls.run, long, 60.0)
        assert begun.wait(60)
        with pytest.raises(RuntimeUnavailable, match="too many calls at once"):
            client.list_jobs()
        over.set()
    assert client.list_jobs() == []


def test_the_connection_is_closed_when_no_wait_came_for_some_time(
    unserved: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends_listener, "IDLE_S", 0.01)
    ends = unserved._live_parts().store.ends
    for _ in range(2):
        job_id = unserved.run_manifest(line(3))
        with ThreadPoolExecutor() as threads:
            wait = threads.submit(unserved.wait_for_job, job_id)
            wait_until(lambda: ends._waits)
            finish(unserved, job_id)
            assert wait.result(timeout=30)["status"] == "cancelled"
        wait_until(lambda: ends._nudge is None)


def test_a_child_process_waits_on_a_subscription_of_its_own(unserved: Client, tmp_path: Path) -> None:
    first, second = (unserved.run_manifest(line(3)) for _ in range(2))
    with ThreadPoolExecutor() as threads:
        wait = threads.submit(unserved.wait_for_job, first)
        channel = f"celery-task-meta-{second}"
        wait_until(lambda: unserved._live_parts().store.ends._waits)
        child = os.fork()
        if not child:
            ok = False
            try:
                ok = unserved.wait_for_job(second)["status"] == "cancelled"
            finally:
                os._exit(0 if ok else 1)
        server = unserved._live_parts().store.client
        wait_until(lambda: dict(server.pubsub_numsub(channel))[channel.encode()])
        for job_id in (second, first):
            finish(unserved, job_id)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert wait.result(timeout=30)["status"] == "cancelled"


def test_waits_are_woken_after_an_outage_without_reading_again(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(Settings(redis_url=own_server.url))
    ids = [client.run_manifest(line(3)) for _ in range(3)]
    with ThreadPoolExecutor() as threads:
        waits = [threads.submit(client.wait_for_job, job_id) for job_id in ids]
        wait_until(lambda: subscribers(own_server) == [3])
        own_server.kill()
        own_server.start()
        wait_until(lambda: subscribers(own_server) == [3])
        for job_id in ids:
            finish(client, job_id)
        assert [wait.result(timeout=30)["status"] for wait in waits] == ["cancelled"] * 3


def test_a_connection_that_is_lost_while_no_wait_is_left_costs_nothing(own_server: ValkeyServer) -> None:
    """No subscription stays that nobody needs."""
    client = Client(Settings(redis_url=own_server.url))
    ends = client._live_parts().store.ends
    with ends.listening("one", lambda: None):
        wait_until(lambda: subscribers(own_server) == [1])
        own_server.freeze()
    client._live_parts().store.close()  # the request to unsubscribe is lost, or its reply
    own_server.thaw()
    wait_until(lambda: subscribers(own_server) == [])
    with ends.listening("two", lambda: None):
        wait_until(lambda: subscribers(own_server) == [1])
    wait_until(lambda: subscribers(own_server) == [])


def test_a_socket_that_another_thread_closes_costs_no_push(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the client is closed. The thread that all waits share must survive it."""
    wait_readable, failures = ends_listener._await_readable, [ValueError("Invalid file descriptor: -1")]

    def closed_once(connection: object, *args: object) -> None:
        if connection is not None and failures:
            raise failures.pop()
        wait_readable(connection, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ends_listener, "_await_readable", closed_once)
    client = Client(Settings(redis_url=own_server.url))
    job_id = client.run_manifest(line(3))
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(client.wait_for_job, job_id, 60_000)
        wait_until(lambda: not failures and subscribers(own_server))
        finish(client, job_id)
        assert found.result(60)["status"] == "cancelled"
