"""Jobs as Celery results: `AsyncResult(job_id)` in any app whose backend is `mirrorneuron+redis://...`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.dispatch.result_backend import JobResultConsumer
from mirrorneuron.errors import JobFailed
from mirrorneuron.job import JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.store import Jobs
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

InBackground = Callable[[Callable[[], Any]], list[Any]]


def another_app(url: str) -> Celery:
    return Celery("theirs", broker="memory://", backend=f"mirrorneuron+{url}", set_as_current=False)


@pytest.fixture
def app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """Another app with our result backend's URL; the namespace comes from the environment."""
    monkeypatch.setenv("MIRROR_NEURON_REDIS_NAMESPACE", settings.redis_namespace)
    app = another_app(settings.redis_url)
    yield app
    app.backend.store.client.close()
    app.close()


@pytest.fixture
def in_background() -> Iterator[InBackground]:
    """Run a call in a thread; its result or its exception is appended to the list."""
    threads: list[threading.Thread] = []

    def start(call: Callable[[], Any]) -> list[Any]:
        answers: list[Any] = []

        def run() -> None:
            try:
                answers.append(call())
            except Exception as error:
                answers.append(error)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return answers

    yield start
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_the_state_of_a_job_is_a_celery_state(app: Celery, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    assert AsyncResult("j", app=app).state == "PENDING"
    jobs.open("j")
    assert AsyncResult("j", app=app).state == "STARTED"
    store.client.hset(store.keys.job("j"), "status", "paused")
    assert AsyncResult("j", app=app).state == "PAUSED"


def test_the_result_of_a_completed_job_is_its_job_map(app: Celery, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.end("j", output={"sum": 55})
    result = AsyncResult("j", app=app)
    assert (result.state, result.ready(), result.successful()) == ("SUCCESS", True, True)
    assert result.get(timeout=20) == store.read_job("j")
    assert result.get(timeout=20)["result"] == {"agent_id": "join", "output": {"sum": 55}}
    assert result.date_done is not None


def test_a_failed_job_raises_with_its_job_map(app: Celery, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.end("j", JobStatus.FAILED)
    result = AsyncResult("j", app=app)
    with pytest.raises(JobFailed, match="job j failed: it broke") as caught:
        result.get(timeout=20)
    assert caught.value.job_map == store.read_job("j")
    assert (result.state, result.failed()) == ("FAILURE", True)


def test_a_cancelled_job_is_revoked(app: Celery, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.end("j", JobStatus.CANCELLED)
    assert AsyncResult("j", app=app).state == "REVOKED"
    with pytest.raises(TaskRevokedError, match="j was cancelled"):
        AsyncResult("j", app=app).get(timeout=20)


def test_an_id_that_is_not_a_job_is_handled_by_celery(app: Celery) -> None:
    assert AsyncResult("no-job", app=app).state == "PENDING"


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Wait until the waiting thread has read the record and only listens."""
    begun, drain = threading.Event(), JobResultConsumer.drain_events

    def drain_events(self: JobResultConsumer, timeout: float | None = None) -> None:
        begun.set()
        drain(self, timeout)

    monkeypatch.setattr(JobResultConsumer, "drain_events", drain_events)
    return lambda: wait_until(begun.is_set)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (JobStatus.COMPLETED, dict),
        (JobStatus.FAILED, JobFailed),
        (JobStatus.CANCELLED, TaskRevokedError),
    ],
)
def test_the_push_wakes_get(
    app: Celery,
    jobs: Jobs,
    in_background: InBackground,
    listening: Callable[[], bool],
    status: JobStatus,
    expected: type,
) -> None:
    """Celery has read the result and only listens: without the push it would block without end."""
    jobs.submit("j")
    answers = in_background(lambda: AsyncResult("j", app=app).get(timeout=60))
    listening()
    assert answers == []
    jobs.end("j", status)
    (answer,) = wait_until(lambda: answers)
    assert type(answer) is expected


def test_get_survives_a_restart_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_background: InBackground, listening: Callable[[], bool]
) -> None:
    with ValkeyServer(tmp_path, durable=True) as server:
        settings = Settings(redis_url=server.url, redis_namespace="restart")
        monkeypatch.setenv("MIRROR_NEURON_REDIS_NAMESPACE", "restart")
        jobs, app = Jobs(Store(settings)), another_app(server.url)
        jobs.submit("j")
        answers = in_background(lambda: AsyncResult("j", app=app).get(timeout=60))
        listening()
        server.kill()
        server.start()
        jobs.end("j")
        (answer,) = wait_until(lambda: answers)
        assert answer["status"] == "completed"
        app.backend.store.client.close()
        jobs.store.client.close()
        app.close()


@pytest.mark.parametrize("status", [None, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_the_result_of_a_job_is_neither_stored_nor_forgotten(
    app: Celery, store: Store, jobs: Jobs, status: JobStatus | None
) -> None:
    """Celery itself protects only results with status SUCCESS from being overwritten."""
    jobs.submit("j")
    if status:
        jobs.end("j", status)
    before, state = store.client.hgetall(store.keys.job("j")), AsyncResult("j", app=app).state
    app.backend.store_result("j", ValueError("revoked"), "FAILURE")
    app.backend.mark_as_revoked("j", "terminated", request=None)
    assert store.client.exists(app.backend.get_key_for_task("j")) == 0
    AsyncResult("j", app=app).forget()
    assert store.client.hgetall(store.keys.job("j")) == before
    assert AsyncResult("j", app=app).state == state


def test_results_of_other_tasks_are_stored_read_and_forgotten(app: Celery, settings: Settings) -> None:
    task_id = f"task-of-{settings.redis_namespace}"
    app.backend.store_result(task_id, {"n": 1}, "SUCCESS")
    result = AsyncResult(task_id, app=app)
    assert (result.state, result.get(timeout=20)) == ("SUCCESS", {"n": 1})
    result.forget()
    assert AsyncResult(task_id, app=app).state == "PENDING"


def test_a_task_of_another_app_still_waits_for_its_own_results(
    app: Celery, settings: Settings, in_background: InBackground, listening: Callable[[], bool]
) -> None:
    task_id = f"task-of-{settings.redis_namespace}"
    answers = in_background(lambda: AsyncResult(task_id, app=app).get(timeout=60))
    listening()
    app.backend.store_result(task_id, [1, 2], "SUCCESS")
    assert wait_until(lambda: answers) == [[1, 2]]
    AsyncResult(task_id, app=app).forget()


def test_our_own_app_keeps_its_jobs_in_its_result_backend(settings: Settings, jobs: Jobs) -> None:
    app = make_app(settings)
    jobs.submit("j")
    assert app.backend.store.read_job("j")["status"] == "pending"
    assert app.AsyncResult("j").state == "PENDING"
    app.backend.store.client.close()
    app.close()


def test_many_threads_share_one_store(settings: Settings, in_background: InBackground) -> None:
    app = make_app(settings)
    assert app.backend.store is app.backend.store
    answers = [in_background(lambda: id(app.backend.store)) for _ in range(8)]
    wait_until(lambda: all(answers))
    assert len({found[0] for found in answers}) == 1
    app.close()
