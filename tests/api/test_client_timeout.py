"""`client_timeout_ms` and `submit_timeout`: no call of a producer waits longer, whatever it waits for."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from mirrorneuron import JobNotFound, RuntimeUnavailable, aio
from mirrorneuron.api.client import Client
from mirrorneuron.settings import Settings
from tests.support.graphs import line
from tests.support.valkey import ValkeyServer

SOON_S = 4.0  # less than one time-out of a socket, more than any delay of a slow machine here
CALLS: dict[str, Callable[[Any], Any]] = {
    "run_manifest": lambda client: client.run_manifest(line(3)),
    "run_manifest, await_": lambda client: client.run_manifest(line(3), await_=True),
    "wait_for_job": lambda client: client.wait_for_job("job"),
    "inspect_job": lambda client: client.inspect_job("job"),
    "inspect_agents": lambda client: client.inspect_agents("job"),
    "inspect_nodes": lambda client: client.inspect_nodes(),
    "job_manifest": lambda client: client.job_manifest("job"),
    "events": lambda client: client.events("job"),
    "stream_events": lambda client: client.stream_events("job"),
    "logs": lambda client: client.logs("job"),
    "logs, follow": lambda client: client.logs("job", "agent", follow=True),
    "list_jobs": lambda client: client.list_jobs(),
    "job_details": lambda client: client.job_details("job"),
    "cluster_overview": lambda client: client.cluster_overview(),
    "pause": lambda client: client.pause("job"),
    "resume": lambda client: client.resume("job"),
    "cancel": lambda client: client.cancel("job"),
    "send_message": lambda client: client.send_message("job", "agent", {}),
    "retry": lambda client: client.retry("job"),
    "dead_letters": lambda client: client.dead_letters("job"),
    "replay": lambda client: client.replay("job", "message"),
    "cleanup_jobs": lambda client: client.cleanup_jobs(),
}


@pytest.fixture
def silent() -> Iterator[str]:
    """Host and port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def ends_soon(call: Callable[[], Any]) -> RuntimeUnavailable:
    began = time.monotonic()
    with pytest.raises(RuntimeUnavailable) as caught:
        call()
    assert time.monotonic() - began < SOON_S
    return caught.value


@pytest.mark.parametrize("scheme", ["redis://{}/0", "sentinel://{},{}/main/0"])
def test_each_call_ends_in_time_when_the_store_is_silent(silent: str, scheme: str) -> None:
    client = Client(Settings(redis_url=scheme.format(silent, silent), client_timeout_ms=300))
    with ThreadPoolExecutor(len(CALLS)) as threads:
        for error in threads.map(lambda call: ends_soon(lambda: call(client)), CALLS.values()):
            assert error.hint
    assert client.why("job")["cause"] == "store_away"


def test_each_coroutine_and_async_iterator_ends_in_time_when_the_store_is_silent(silent: str) -> None:
    client = aio.Client(Settings(redis_url=f"redis://{silent}/0", client_timeout_ms=300))

    async def ends(call: Callable[[Any], Any]) -> None:
        made = call(client)
        with pytest.raises(RuntimeUnavailable):
            await (anext(made) if hasattr(made, "__anext__") else made)

    async def main() -> None:
        calls = [call for name, call in CALLS.items()] * 9  # more than there are threads
        await asyncio.wait_for(asyncio.gather(*map(ends, calls)), SOON_S)

    asyncio.run(main())


def test_a_name_that_is_not_resolved_in_time_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time-out of a socket applies to the lookup of a name."""
    resolved = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved.wait(60) and [])
    client = Client(Settings(redis_url="redis://store.example/0", client_timeout_ms=100))
    try:
        ends_soon(lambda: client.inspect_job("job"))
    finally:
        resolved.set()


@pytest.mark.parametrize("timeout", [0.2, timedelta(milliseconds=200)])
def test_submit_timeout_is_for_one_submission(silent: str, timeout: Any) -> None:
    client = Client(Settings(redis_url=f"redis://{silent}/0"))
    error = ends_soon(lambda: client.run_manifest(line(3), submit_timeout=timeout))
    assert "0.2 s" in str(error)
    assert error.job_id


@pytest.mark.parametrize(("wrong", "kind"), [("1", TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)])
def test_a_submit_timeout_is_a_positive_number_of_seconds(unserved: Client, wrong: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="submit_timeout"):
        unserved.run_manifest(line(3), submit_timeout=wrong)
    assert unserved.list_jobs() == []


def test_a_submission_without_an_answer_names_the_id_with_which_it_can_be_repeated(own_server: ValkeyServer) -> None:
    client = Client(Settings(redis_url=own_server.url, client_timeout_ms=400))
    client.inspect_nodes()  # connected
    own_server.freeze()
    lost = ends_soon(lambda: client.run_manifest(line(3))).job_id
    assert lost is not None
    assert ends_soon(lambda: client.run_manifest(line(3), job_id=lost)).job_id == lost
    own_server.thaw()
    patient = Client(Settings(redis_url=own_server.url))
    assert patient.run_manifest(line(3), job_id=lost) == lost
    assert [job["job_id"] for job in patient.list_jobs()] == [lost]


def test_a_silent_broker_does_not_undo_what_the_store_has(
    redis_url: str, silent: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The change is made, so that the call succeeds: the sweeper announces it."""
    name = f"silent_broker_{tmp_path.name}".replace("[", "_").replace("]", "_")[:60]
    settings = Settings(
        redis_url=redis_url, redis_namespace=name, broker_url=f"redis://{silent}/0", client_timeout_ms=1_000
    )
    client, began = Client(settings), time.monotonic()
    with caplog.at_level(logging.WARNING, "mirrorneuron"):
        job_id = client.run_manifest(line(3))
        message_id = client.send_message(job_id, "r0", {})
    assert message_id
    assert time.monotonic() - began < 2 * SOON_S
    assert client.inspect_job(job_id)["status"] == "pending"
    assert "announcement" in caplog.text


def test_a_short_time_out_is_enough_for_a_server_that_answers(unserved: Client) -> None:
    client = Client(unserved.settings.model_copy(update={"client_timeout_ms": 5_000}))
    job_id = client.run_manifest(line(3))
    assert client.cancel(job_id)["status"] == "cancelled"
    assert client.cleanup_jobs() == [job_id]
    with pytest.raises(JobNotFound):
        client.inspect_job(job_id)
