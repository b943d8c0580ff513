"""Invalid arguments: one clear error before any I/O, the same from both clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mirrorneuron import JobNotFound, JobStatus, aio
from mirrorneuron.api.client import Client
from tests.support.graphs import agent, manifest

Call = Callable[[Any], Any]
ABOUT_A_JOB: dict[str, Callable[[Client, Any], Any]] = {
    "wait_for_job": lambda client, job: client.wait_for_job(job),
    "inspect_job": lambda client, job: client.inspect_job(job),
    "job_manifest": lambda client, job: client.job_manifest(job),
    "inspect_agents": lambda client, job: client.inspect_agents(job),
    "events": lambda client, job: client.events(job),
    "stream_events": lambda client, job: client.stream_events(job),
    "job_details": lambda client, job: client.job_details(job),
    "pause": lambda client, job: client.pause(job),
    "resume": lambda client, job: client.resume(job),
    "cancel": lambda client, job: client.cancel(job),
    "send_message": lambda client, job: client.send_message(job, "in", {}),
    "retry": lambda client, job: client.retry(job),
    "why": lambda client, job: client.why(job),
    "logs": lambda client, job: client.logs(job),
    "logs of an agent": lambda client, job: client.logs(job, "in"),
    "dead_letters": lambda client, job: client.dead_letters(job),
    "replay": lambda client, job: client.replay(job, "m"),
}
IN_AIO = ("wait_for_job", "inspect_job", "inspect_agents", "events", "job_details")


@pytest.fixture
def job(unserved: Client) -> str:
    return unserved.run_manifest(manifest([agent("in", "sensor")]), job_id="None")


@pytest.mark.parametrize("job_id", ["\ud800", "", "a b", "x" * 129, "a}:mail:{b", "a\n", "é", "no-such-job"])
@pytest.mark.parametrize("call", ABOUT_A_JOB)
def test_an_invalid_job_id_is_not_found(unserved: Client, call: str, job_id: str) -> None:
    with pytest.raises(JobNotFound) as caught:
        ABOUT_A_JOB[call](unserved, job_id)
    assert caught.value.job_id == job_id
    str(caught.value).encode()


@pytest.mark.parametrize("job_id", [None, 5, b"None", ["None"]])
@pytest.mark.parametrize("call", ABOUT_A_JOB)
def test_a_job_id_that_is_not_a_string_is_a_type_error(unserved: Client, job: str, call: str, job_id: Any) -> None:
    """Even if a job exists whose id is `str()` of it."""
    with pytest.raises(TypeError, match="job_id must be a string"):
        ABOUT_A_JOB[call](unserved, job_id)


@pytest.mark.parametrize("call", IN_AIO)
def test_aio_raises_the_same_errors_for_job_ids(unserved: Client, job: str, call: str) -> None:
    client: Any = aio.Client(unserved.settings)
    for job_id, error in (("\ud800", JobNotFound), ("a b", JobNotFound), (None, TypeError), (5, TypeError)):
        with pytest.raises(error):
            asyncio.run(getattr(client, call)(job_id))


MISUSES: list[tuple[Call, type[Exception], str]] = [
    (lambda c: c.list_jobs(status="nope"), ValueError, f"'nope'.*{', '.join(JobStatus)}"),
    (lambda c: c.list_jobs(status=""), ValueError, "'' is not a job status"),
    (lambda c: c.list_jobs(status="\ud800"), ValueError, "is not a job status"),
    (lambda c: c.list_jobs(status=5), TypeError, "status must be a string"),
    (lambda c: c.list_jobs(limit=-1), ValueError, "limit must be 0 or more, not -1"),
    (lambda c: c.list_jobs(limit="5"), TypeError, "limit must be an integer or None, not '5'"),
    (lambda c: c.list_jobs(limit=True), TypeError, "limit must be an integer"),
    (lambda c: c.cluster_overview(limit=-1), ValueError, "limit must be 0 or more"),
    (lambda c: c.events("None", after="soon"), ValueError, "after must be the id of an event.*'soon'"),
    (lambda c: c.events("None", after="$"), ValueError, "after must be the id of an event"),
    (lambda c: c.events("None", after=5), TypeError, "after must be a string"),
    (lambda c: c.events("None", after="9" * 30), ValueError, "after must be the id of an event"),
    (lambda c: c.events("None", limit=-1), ValueError, "limit must be 0 or more"),
    (lambda c: c.events("None", limit=1.5), TypeError, "limit must be an integer"),
    (lambda c: c.job_details("None", event_limit=-1), ValueError, "event_limit must be 0 or more"),
]
BLOCKING_ONLY: list[tuple[Call, type[Exception], str]] = [
    (lambda c: c.stream_events("None", after="soon"), ValueError, "after must be the id of an event"),
    (lambda c: c.cleanup_jobs(older_than=timedelta(days=-1)), ValueError, "older_than must not be negative"),
    (lambda c: c.logs("None", 5), TypeError, "agent_id must be a string"),
    (lambda c: c.send_message("None", ["in"], {}), TypeError, "agent_id must be a string"),
    (lambda c: c.retry("None", from_agent=5), TypeError, "from_agent must be a string"),
    (lambda c: c.replay("None", 5), TypeError, "message_id must be a string"),
    (lambda c: c.replay("None", "m", to_agent=5), TypeError, "to_agent must be a string"),
    (lambda c: c.cancel("None", reason=5), TypeError, "reason must be a string"),
    (lambda c: c.cancel("None", reason="\ud800"), ValueError, "reason must be encodable as UTF-8"),
    (lambda c: c.cleanup_jobs(older_than=5), TypeError, "older_than must be a timedelta"),
    (lambda c: c.run_manifest({}, job_id=5), TypeError, "job_id must be a string"),
]


@pytest.mark.parametrize(("call", "error", "said"), MISUSES + BLOCKING_ONLY)
def test_an_invalid_argument_is_named_with_what_is_expected(
    unserved: Client, job: str, call: Call, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        call(unserved)
    assert type(caught.value) is error
    assert unserved.inspect_job(job)["status"] == "pending"


@pytest.mark.parametrize(("call", "error", "said"), MISUSES)
def test_aio_raises_the_same_errors_for_invalid_arguments(
    unserved: Client, job: str, call: Call, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        asyncio.run(call(aio.Client(unserved.settings)))


def test_valid_arguments_are_accepted(unserved: Client, job: str) -> None:
    (first, *rest) = unserved.events(job)
    assert unserved.events(job, after=first["id"], limit=10**30) == rest
    assert unserved.events(job, after="0") == [first, *rest]
    assert unserved.events(job, limit=0) == []
    assert unserved.job_details(job, event_limit=0)["events"] == []
    assert [found["job_id"] for found in unserved.list_jobs(status=JobStatus.PENDING)] == [job]
    assert unserved.list_jobs(limit=0) == []
    assert unserved.cleanup_jobs(older_than=timedelta(0)) == []
