"""AsyncResult(job_id) from any Celery app whose result backend is `mirrorneuron+redis://`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery, current_app
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import AsyncResult

from mirrorneuron import JobFailed, JobNotFound
from tests.support.graphs import ended, finish, line, single, until_there
from tests.support.waiting import wait_until


@pytest.fixture
def other(client, celery_app_of):
    return celery_app_of(client.settings)


def test_the_result_of_an_ended_job_is_its_job_map(client, other):
    job = ended(client, line(3))
    result = other.AsyncResult(job["job_id"])
    assert (result.state, result.ready(), result.successful()) == ("SUCCESS", True, True)
    assert result.get(timeout=30) == job


def test_a_running_job_is_started_and_its_end_wakes_get(client, other, outside):
    job_id = client.run_manifest(single(until_there(outside / "gate")))
    result = other.AsyncResult(job_id)
    wait_until(lambda: result.state == "STARTED")
    with pytest.raises(CeleryTimeout):
        result.get(timeout=0.05)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(other.AsyncResult(job_id).get, timeout=60)
        (outside / "gate").touch()
        assert wait.result()["status"] == "completed"
    assert client.inspect_job(job_id)["status"] == "completed"


def test_a_failed_job_raises_with_its_record(client, other):
    job = ended(client, single("exit 3"))
    result = other.AsyncResult(job["job_id"])
    assert (result.state, result.failed()) == ("FAILURE", True)
    with pytest.raises(JobFailed, match="command exited with code 3") as caught:
        result.get(timeout=30)
    assert caught.value.job_map == job


def test_a_cancelled_job_is_revoked(client, other, outside):
    job_id = client.run_manifest(single(until_there(outside / "gate")))
    wait_until(lambda: client.inspect_job(job_id)["status"] == "running")
    finish(client, job_id)
    (outside / "gate").touch()
    assert other.AsyncResult(job_id).state == "REVOKED"
    with pytest.raises(TaskRevokedError):
        other.AsyncResult(job_id).get(timeout=30)


def test_the_record_of_a_job_is_neither_forgotten_nor_overwritten(client, other, server):
    job = ended(client, line(3))
    other.AsyncResult(job["job_id"]).forget()
    other.backend.store_result(job["job_id"], "mine", "FAILURE")
    assert client.inspect_job(job["job_id"]) == job
    assert not server.client.exists(f"celery-task-meta-{job['job_id']}")


def test_other_results_are_handled_by_celerys_own_backend(other):
    other.backend.store_result("a-task-of-its-own", {"x": 1}, "SUCCESS")
    assert other.AsyncResult("a-task-of-its-own").get(timeout=30) == {"x": 1}
    other.AsyncResult("a-task-of-its-own").forget()
    assert other.AsyncResult("a-task-of-its-own").state == "PENDING"


def test_async_result_of_a_client_does_not_depend_on_the_current_app(client):
    """The host's app is current and has a backend of its own, in which the job's id is PENDING for ever."""
    job_id = ended(client, line(3))["job_id"]
    host = Celery("host", broker="memory://", backend="cache+memory://", set_as_current=False)
    before = current_app._get_current_object()
    host.set_current()
    try:
        assert AsyncResult(job_id).state == "PENDING"
        result = client.async_result(job_id)
        assert (result.id, result.state, result.get(timeout=30)) == (job_id, "SUCCESS", client.inspect_job(job_id))
        assert current_app._get_current_object() is host
    finally:
        before.set_current()


def test_async_result_of_a_client_waits_and_knows_failures(client, outside):
    job_id = client.run_manifest(single(f"{until_there(outside / 'gate')}; exit 3"))
    result = client.async_result(job_id)
    assert not result.ready()
    (outside / "gate").touch()
    with pytest.raises(JobFailed, match="command exited with code 3"):
        result.get(timeout=60)


def test_async_result_of_an_unknown_job_is_an_error_and_not_pending(client):
    with pytest.raises(JobNotFound):
        client.async_result("no-such-job")
