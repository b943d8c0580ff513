"""Waits for jobs: one read if the job has ended, a push if not, and retries while the server is unreachable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mirrorneuron.api import waiting
from mirrorneuron.api.client import Client
from mirrorneuron.api.waiting import Deadline, until_ended
from mirrorneuron.errors import JobNotFound, RuntimeUnavailable, WaitTimeout
from mirrorneuron.job import JobMap, JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store import direct_line
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import result_channel
from tests.support.store import Jobs
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

NEVER_S = 3_600.0


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait has a connection of its own: see `test_waiting_alone.py` for those."""
    monkeypatch.setattr(direct_line, "MOST", 0)


Wait = Callable[[Store, str], "Future[JobMap]"]


@pytest.fixture
def wait() -> Iterator[Wait]:
    """Start a wait in a thread; return once it is subscribed or done."""
    with ThreadPoolExecutor() as threads:

        def start(store: Store, job_id: str) -> Future[JobMap]:
            future = threads.submit(until_ended, store, job_id, Deadline.after(60_000))
            wait_until(lambda: listeners(store, job_id) or future.done())
            return future

        yield start


def listeners(store: Store, job_id: str) -> int:
    ((_, count),) = store.client.pubsub_numsub(result_channel(job_id))
    return int(count)


def commands(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that the store's client sends from now on."""
    sent: list[str] = []
    execute = store.client.execute_command

    def counted(*args: Any, **options: Any) -> Any:
        sent.append(args[0])
        return execute(*args, **options)

    monkeypatch.setattr(store.client, "execute_command", counted)
    monkeypatch.setattr(store.client, "pubsub", lambda: pytest.fail("it subscribed"))
    return sent


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_waiting_for_an_ended_job_is_one_read(
    store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, status: JobStatus
) -> None:
    jobs.submit("j")
    jobs.end("j", status)
    sent = commands(store, monkeypatch)
    assert until_ended(store, "j", Deadline.after(None))["status"] == status
    assert sent == ["HMGET"]


def test_waiting_for_an_unknown_job_is_an_error_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = commands(store, monkeypatch)
    with pytest.raises(JobNotFound, match="no-job"):
        until_ended(store, "no-job", Deadline.after(None))
    assert sent == ["HMGET"]


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_push_wakes_the_wait(
    store: Store, jobs: Jobs, wait: Wait, monkeypatch: pytest.MonkeyPatch, status: JobStatus
) -> None:
    """The next re-read of the record would come in an hour."""
    monkeypatch.setattr(waiting, "REREAD_S", NEVER_S)
    jobs.submit("j")
    future = wait(store, "j")
    assert not future.done()
    jobs.end("j", status)
    assert future.result(timeout=30)["status"] == status


def test_an_end_between_the_first_read_and_the_subscription_is_not_missed(
    store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REREAD_S", NEVER_S)
    jobs.submit("j")
    make = store.client.pubsub

    def pubsub(**options: Any) -> Any:
        jobs.end("j")
        return make(**options)

    monkeypatch.setattr(store.client, "pubsub", pubsub)
    assert until_ended(store, "j", Deadline.after(30_000))["status"] == "completed"


def test_an_end_without_a_push_is_found_by_reading_again(
    store: Store, jobs: Jobs, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REREAD_S", 0.02)
    jobs.submit("j")
    future = wait(store, "j")
    store.client.hset(store.keys.job("j"), mapping={"status": "completed", "result": b'{"output":1}'})
    assert future.result(timeout=30)["status"] == "completed"


def test_a_push_for_a_live_job_does_not_end_the_wait(
    store: Store, jobs: Jobs, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REREAD_S", NEVER_S)
    jobs.submit("j")
    future = wait(store, "j")
    store.client.publish(result_channel("j"), b"not even JSON")
    jobs.end("j")
    assert future.result(timeout=30)["status"] == "completed"


@pytest.mark.parametrize("timeout", [0, 1, 30.5, timedelta(milliseconds=20)])
def test_a_wait_that_times_out_does_not_affect_the_job(store: Store, jobs: Jobs, timeout: Any) -> None:
    jobs.submit("j")
    with pytest.raises(WaitTimeout, match="'j' has not ended in time") as caught:
        until_ended(store, "j", Deadline.after(timeout))
    assert (caught.value.job_id, store.read_job("j")["status"]) == ("j", "pending")
    wait_until(lambda: listeners(store, "j") == 0)


@pytest.mark.parametrize("timeout", [1_500, 1_500.0, timedelta(seconds=1.5)])
def test_a_timeout_is_in_milliseconds(timeout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    deadline = Deadline.after(timeout)
    assert (deadline.left(1.0), deadline.left(60.0), deadline.over) == (1.0, 1.5, False)
    now[0] += 1.5
    assert (deadline.left(60.0), deadline.over) == (0.0, True)
    assert (Deadline.after(None).left(60.0), Deadline.after(None).over) == (60.0, False)


@pytest.mark.parametrize("timeout", ["5", True, [5], object()])
def test_a_timeout_that_is_not_a_number_or_timedelta_is_a_type_error(timeout: Any) -> None:
    with pytest.raises(TypeError, match="milliseconds"):
        Deadline.after(timeout)


@pytest.mark.parametrize("timeout", [-1, float("nan"), timedelta(seconds=-1)])
def test_a_negative_timeout_is_a_value_error(timeout: Any) -> None:
    with pytest.raises(ValueError, match="negative"):
        Deadline.after(timeout)


def test_a_record_that_disappears_during_the_wait_ends_it(
    store: Store, jobs: Jobs, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REREAD_S", 0.02)
    jobs.submit("j")
    future = wait(store, "j")
    store.client.delete(store.keys.job("j"))
    with pytest.raises(JobNotFound):
        future.result(timeout=30)


def test_a_wait_survives_a_restart_of_the_server(tmp_path: Path, wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REREAD_S", NEVER_S)
    with ValkeyServer(tmp_path, durable=True) as server:
        store = Store(Settings(redis_url=server.url, redis_namespace="restart"))
        jobs = Jobs(store)
        jobs.submit("j")
        future = wait(store, "j")
        server.kill()
        server.start()
        wait_until(lambda: listeners(store, "j"))
        jobs.end("j")
        assert future.result(timeout=30)["status"] == "completed"
        store.client.close()


def test_a_long_wait_survives_a_restart_too(tmp_path: Path, wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit applies to how long the store is unreachable, not to how long the job takes."""
    now = [0.0]
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    monkeypatch.setattr(waiting, "REREAD_S", 0.01)
    monkeypatch.setattr(waiting, "RETRY_S", 0.01)
    with ValkeyServer(tmp_path, durable=True) as server:
        store, readings = (
            Store(Settings(redis_url=server.url, redis_namespace="long"), retries=0),
            threading.Semaphore(0),
        )
        read = store.reads.ended_job

        def counted(job_id: str, seconds: float) -> JobMap | None:
            found = read(job_id, seconds)
            readings.release()
            return found

        monkeypatch.setattr(store.reads, "ended_job", counted)
        jobs = Jobs(store)
        jobs.submit("j")
        future = wait(store, "j")
        now[0] = 40.0  # seconds later, but not near the deadline of the wait
        monkeypatch.setattr(waiting, "MAX_OUTAGE_S", 10.0)
        while readings.acquire(blocking=False):
            pass
        for _ in range(2):
            assert readings.acquire(timeout=30)  # the store is read
        server.kill()
        server.start()
        wait_until(lambda: future.done() or (_answers(server) and listeners(store, "j")))
        if not future.done():
            jobs.end("j")
        assert future.result(timeout=30)["status"] == "completed"


def _answers(server: ValkeyServer) -> bool:
    return bool(server.client.ping())


def test_a_server_that_stays_unreachable_ends_the_wait_with_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    monkeypatch.setattr(waiting, "MAX_OUTAGE_S", 0.0)
    with ValkeyServer(tmp_path) as server:
        settings = Settings(redis_url=server.url, redis_namespace="away")
        client, jobs = Client(settings), Jobs(Store(settings))
        jobs.submit("j")
        with ThreadPoolExecutor() as threads:
            future = threads.submit(client.wait_for_job, "j")
            wait_until(lambda: listeners(jobs.store, "j"))
            server.kill()
            with pytest.raises(RuntimeUnavailable, match=str(server.port)) as caught:
                future.result(timeout=60)
        assert caught.value.job_id == "j"


@pytest.mark.parametrize("timeout", [10**400, float("inf"), timedelta.max])
def test_a_deadline_may_be_later_than_any_clock(timeout: Any) -> None:
    assert Deadline.after(timeout).left(NEVER_S) == NEVER_S
