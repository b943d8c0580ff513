"""Producers while the server is away: errors after a bounded time, waits that go on, calls that can be repeated."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from mirrorneuron import RuntimeUnavailable, aio, app, connection
from mirrorneuron.client import Client
from mirrorneuron.job import JobStatus
from mirrorneuron.settings import Settings
from tests.crash.bundles import gated, starts
from tests.jobs.graphs import finish, line, snapshots
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

BOUND_S = 20  # a machine that is busy; each gives up after some tries of TIMEOUT_S
TIMEOUT_S = 0.2
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
def own_server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server of the test's own."""
    with ValkeyServer(tmp_path / "server", durable=True) as running:
        yield running


@pytest.mark.parametrize("known", [True, False], ids=["connected", "new"])
@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_every_call_gives_up_after_a_bounded_time(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, how: str, known: bool
) -> None:
    """With an error that names the server without its password, whether or not there was a connection before."""
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


@pytest.mark.parametrize("known", [True, False], ids=["connected", "new"])
def test_a_broker_that_is_frozen_holds_up_a_submission_for_a_bounded_time(
    own_server: ValkeyServer, redis_url: str, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The job is submitted all the same: who could not be told will look."""
    monkeypatch.setattr(app, "SOCKET_TIMEOUT_S", TIMEOUT_S)
    client = Client(Settings(redis_url=redis_url, broker_url=own_server.url, redis_namespace="frozen_broker"))
    if known:
        client.run_manifest(line(3))
    own_server.freeze()
    began = time.monotonic()
    assert client.inspect_job(client.run_manifest(line(3)))["status"] == "pending"
    assert time.monotonic() - began < BOUND_S


class Cut:
    """Cuts this process off from all servers after some replies; the request whose reply is lost has its effect."""

    def __init__(self, replies: int) -> None:
        self.left = replies
        self.happened = False

    def __enter__(self) -> Cut:
        self._patch = pytest.MonkeyPatch()
        read = redis.connection.AbstractConnection.read_response

        def read_response(link: redis.connection.AbstractConnection, *args: Any, **options: Any) -> Any:
            answer = read(link, *args, **options)
            self.left -= 1
            if self.left >= 0:
                return answer
            self.happened = True
            link.disconnect()
            raise redis.exceptions.ConnectionError("cut off")

        self._patch.setattr(redis.connection.Connection, "read_response", read_response)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_a_submission_that_was_cut_off_anywhere_can_be_repeated(node: RealNode, tmp_path: Path) -> None:
    """With the same job id it is the same job, and it is run once."""
    for replies in range(100):
        folder = tmp_path / f"{replies}"
        (folder / "bundle" / "payloads").mkdir(parents=True)
        (folder / "bundle" / "payloads" / "data").write_text(f"{replies}")  # a bundle that has never been stored
        (folder / "bundle" / "manifest.json").write_text(json.dumps(gated(folder)))
        (folder / "gate").touch()
        new = Client(node.settings)
        with Cut(replies) as cut:
            try:
                first = new.run_manifest(folder / "bundle", job_id=f"cut-{replies}")
            except RuntimeUnavailable:
                first = f"cut-{replies}"
        assert new.run_manifest(folder / "bundle", job_id=first) == first
        assert new.wait_for_job(first, timeout=60_000)["status"] == "completed"
        assert len(starts(folder)) == 1
        assert {agent["processed_messages"] for agent in snapshots(new, first).values()} == {1}
        if not cut.happened:
            break
    assert replies > 5


@pytest.mark.parametrize("by", ["sync", "aio"])
def test_a_stream_of_events_rides_it_out(own_server: ValkeyServer, by: str) -> None:
    """It goes on where it was, to the event that ends the job."""
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


@pytest.fixture
def other(own_server: ValkeyServer) -> Iterator[Celery]:
    """Somebody's own Celery app, which tries to connect twice and no more."""
    app = Celery("other", broker="memory://", backend=f"mirrorneuron+{own_server.url}", set_as_current=False)
    app.conf.result_backend_thread_safe = True
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 2}}
    yield app
    app.backend.result_consumer.subscribed_to.clear()  # results that are deleted later send nothing more
    app.backend.result_consumer.stop()
    app.backend.store.client.close()


def test_waits_by_async_result_ride_out_what_celery_gives_up_on(own_server: ValkeyServer, other: Celery) -> None:
    """They are as patient as `wait_for_job`; Celery itself tries to connect 20 times, here 2."""
    client = Client(Settings(redis_url=own_server.url))
    jobs = [client.run_manifest(line(3)) for _ in range(2)]
    on = [threading.Event() for _ in jobs]
    with ThreadPoolExecutor(2) as pool:
        waits = [
            pool.submit(other.AsyncResult(job_id).get, timeout=5, on_interval=found.set)
            for job_id, found in zip(jobs, on, strict=True)
        ]
        wait_until(lambda: all(found.is_set() for found in on))
        own_server.stop()
        began = time.monotonic()
        wait_until(lambda: any(wait.done() for wait in waits) or time.monotonic() > began + 2.5)
        own_server.start()
        for job_id in jobs:
            finish(client, job_id, JobStatus.COMPLETED)
        assert [wait.result(timeout=20)["status"] for wait in waits] == ["completed"] * 2
