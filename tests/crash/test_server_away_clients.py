"""Producers while the server is unreachable: errors after a bounded time, waits that continue, repeatable calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from mirrorneuron import RuntimeUnavailable, WaitTimeout, aio
from mirrorneuron.api.client import Client
from mirrorneuron.dispatch import celery_app
from mirrorneuron.job import JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store import connection
from mirrorneuron.store.keys import result_channel
from tests.support.graphs import finish, line
from tests.support.leftovers import clear
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

BOUND_S = 20  # on a busy machine; each call gives up after some attempts of TIMEOUT_S
TIMEOUT_S = 0.5
SOON_MS = 3_000  # both waits have subscribed by then
JOB = "some-job"

VERBS: dict[str, Callable[[Client], object]] = {
    "run_manifest": lambda client: client.run_manifest(line(3), job_id=JOB),
    "run_manifest and wait": lambda client: client.run_manifest(line(3), await_=True),
    "wait_for_job": lambda client: client.wait_for_job(JOB),
    "inspect_job": lambda client: client.inspect_job(JOB),
    "inspect_agents": lambda client: client.inspect_agents(JOB),
    "job_details": lambda client: client.job_details(JOB),
    "events": lambda client: client.events(JOB),
    "stream_events": lambda client: list(client.stream_events(JOB)),
    "list_jobs": lambda client: client.list_jobs(),
    "inspect_nodes": lambda client: client.inspect_nodes(),
    "cluster_overview": lambda client: client.cluster_overview(),
    "pause": lambda client: client.pause(JOB),
    "resume": lambda client: client.resume(JOB),
    "cancel": lambda client: client.cancel(JOB),
    "send_message": lambda client: client.send_message(JOB, "r0", {}),
    "retry": lambda client: client.retry(JOB),
    "cleanup_jobs": lambda client: client.cleanup_jobs(all=True),
}


@pytest.fixture
def own_server(own_server: ValkeyServer) -> Iterator[ValkeyServer]:
    """A server of which the calls must leave nothing behind."""
    yield own_server
    own_server.revive()
    clear(Client(Settings(redis_url=own_server.url)))


@pytest.mark.parametrize("known", [True, False], ids=["connected", "new"])
@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_every_call_gives_up_after_a_bounded_time(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, how: str, known: bool
) -> None:
    """The error names the server without its password, with or without an earlier connection."""
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT_S", TIMEOUT_S)
    url = own_server.url.replace("//", "//default:secret@")
    clients = {verb: Client(Settings(redis_url=url)) for verb in VERBS}
    if known:
        for one in clients.values():
            one.list_jobs()
    {"stopped": own_server.stop, "frozen": own_server.freeze}[how]()

    def outcome(verb: str) -> tuple[BaseException | None, float]:
        began = time.monotonic()
        error = None
        try:
            VERBS[verb](clients[verb])
        except Exception as caught:
            error = caught
        return error, time.monotonic() - began

    with ThreadPoolExecutor(len(VERBS)) as pool:
        outcomes = dict(zip(VERBS, pool.map(outcome, VERBS), strict=True))
    for verb, (error, seconds) in outcomes.items():
        assert isinstance(error, RuntimeUnavailable), (verb, error)
        assert f"127.0.0.1:{own_server.port}" in str(error), (verb, error)
        assert "secret" not in str(error), (verb, error)
        assert seconds < BOUND_S, (verb, seconds)


def test_a_wait_ends_at_its_deadline_although_the_server_is_frozen(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own timeout is much longer than this test may take."""
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT_S", 1_000.0)
    settings = Settings(redis_url=own_server.url, redis_namespace="stands_still")
    client = Client(settings)
    job_id = client.run_manifest(line(3))

    def heard_by() -> int:
        return int(own_server.client.pubsub_numsub(result_channel(job_id))[0][1])

    async def waits() -> None:
        one = asyncio.create_task(aio.Client(settings).wait_for_job(job_id, SOON_MS))
        await asyncio.to_thread(wait_until, lambda: heard_by() == 2 or wait.done() or one.done())
        own_server.freeze()
        with pytest.raises(WaitTimeout):
            await one

    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(client.wait_for_job, job_id, SOON_MS)
        asyncio.run(waits())
        with pytest.raises(WaitTimeout):
            wait.result()


@pytest.mark.parametrize("known", [True, False], ids=["connected", "new"])
def test_a_frozen_broker_delays_a_submission_for_a_bounded_time(
    own_server: ValkeyServer, redis_url: str, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The job is submitted; the sweeper repeats its announcement."""
    monkeypatch.setattr(celery_app, "SOCKET_TIMEOUT_S", TIMEOUT_S)
    client = Client(Settings(redis_url=redis_url, broker_url=own_server.url, redis_namespace="frozen_broker"))
    if known:
        client.run_manifest(line(3))
    own_server.freeze()
    began = time.monotonic()
    assert client.inspect_job(client.run_manifest(line(3)))["status"] == "pending"
    assert time.monotonic() - began < BOUND_S
    clear(client)


@pytest.mark.parametrize("by", ["sync", "aio"])
def test_a_stream_of_events_survives_an_outage(own_server: ValkeyServer, by: str) -> None:
    """It continues where it was, up to the event that ends the job."""
    client = Client(Settings(redis_url=own_server.url))
    job_id = client.run_manifest(line(3))
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(STREAMS[by], client, job_id)
        wait_until(lambda: own_server.client.info("clients")["blocked_clients"])
        own_server.stop()
        began = time.monotonic()
        wait_until(lambda: stream.done() or time.monotonic() > began + 1)
        own_server.start()
        client.cancel(job_id)
        assert stream.result(timeout=60) == ["job_pending", "job_validated", "job_cancelled"]


async def _collected(client: Client, job_id: str) -> list[str]:
    return [event["type"] async for event in aio.Client(client.settings).stream_events(job_id)]


STREAMS: dict[str, Callable[[Client, str], list[str]]] = {
    "sync": lambda client, job_id: [event["type"] for event in client.stream_events(job_id)],
    "aio": lambda client, job_id: asyncio.run(_collected(client, job_id)),
}


def test_waits_by_async_result_survive_an_outage_that_celery_gives_up_on(
    own_server: ValkeyServer, celery_app_of: Callable[..., Celery]
) -> None:
    """They are as patient as `wait_for_job`; Celery itself tries to connect 20 times, here 2."""
    client = Client(Settings(redis_url=own_server.url))
    other = celery_app_of(client.settings, connects=2)
    jobs = [client.run_manifest(line(3)) for _ in range(2)]
    on = [threading.Event() for _ in jobs]
    with ThreadPoolExecutor(2) as pool:
        waits = [
            pool.submit(other.AsyncResult(job_id).get, timeout=60, on_interval=found.set)
            for job_id, found in zip(jobs, on, strict=True)
        ]
        wait_until(lambda: all(found.is_set() for found in on))
        own_server.stop()
        began = time.monotonic()
        wait_until(lambda: any(wait.done() for wait in waits) or time.monotonic() > began + 2.5)
        own_server.start()
        for job_id in jobs:
            finish(client, job_id, JobStatus.COMPLETED)
        assert [wait.result(timeout=60)["status"] for wait in waits] == ["completed"] * 2
