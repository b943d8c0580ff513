"""Progress, computed from events alone."""

from __future__ import annotations

from typing import Any

from mirrorneuron.cli.job_progress import Progress
from mirrorneuron.job import Event, EventType


def event(kind: str, agent: str = "", payload: Any = None) -> Event:
    found: Event = {"id": "1-0", "timestamp": "", "job_id": "job", "type": kind}
    return {**found, **({"agent_id": agent} if agent else {}), **({"payload": payload} if payload else {})}  # type: ignore[typeddict-item]


def noted(*events: Event) -> Progress:
    progress = Progress("job", 3)
    for one in events:
        progress.note(one)
    return progress


def counts(progress: Progress) -> tuple[int, int, int]:
    return len(progress.done), len(progress.busy), len(progress.queued)


REQUESTED = event(EventType.EXECUTOR_LEASE_REQUESTED, "a")
ACQUIRED = event(EventType.EXECUTOR_LEASE_ACQUIRED, "a")
RELEASED = event(EventType.EXECUTOR_LEASE_RELEASED, "a")
RAN = event(EventType.SANDBOX_JOB_COMPLETED, "a")


def test_an_executor_waits_then_runs_then_is_done():
    assert counts(noted(REQUESTED)) == (0, 0, 1)
    assert counts(noted(REQUESTED, ACQUIRED)) == (0, 1, 0)
    assert counts(noted(REQUESTED, ACQUIRED, RAN, RELEASED)) == (1, 0, 0)


def test_an_agent_with_new_work_is_not_done():
    assert counts(noted(REQUESTED, ACQUIRED, RELEASED, REQUESTED)) == (0, 0, 1)
    assert counts(noted(REQUESTED, ACQUIRED, RELEASED, event(EventType.EXECUTOR_RETRY, "a"))) == (0, 0, 1)


def test_a_module_that_consumed_its_mail_is_busy_until_it_releases_its_slot():
    took = event(EventType.AGENT_MESSAGE_RECEIVED, "a", {"count": 1})
    assert counts(noted(ACQUIRED, took)) == (0, 1, 0)
    assert noted(ACQUIRED, took).messages == 1


def test_messages_are_counted_from_the_events():
    progress = noted(
        event(EventType.AGENT_MESSAGE_RECEIVED, "b", {"count": 20}),
        event(EventType.AGGREGATOR_RECEIVED, "c", {"count": 3, "collected": 7}),
        event(EventType.SENSOR_OBSERVED, "d", {"count": 9}),
        RAN,
    )
    assert progress.messages == 25
    assert progress.done == {"b", "c", "d"}


def test_the_status_follows_the_job_and_unknown_events_are_ignored():
    progress = noted(event(EventType.JOB_RUNNING), event("peak_detected", "a", {"count": "many"}))
    assert (progress.status, progress.messages) == ("running", 0)
    assert progress.last is not None
    assert progress.last["type"] == "peak_detected"
    assert noted(event(EventType.AGENT_MESSAGE_RECEIVED, "a", ["odd"])).messages == 1
    assert noted(event(EventType.JOB_FAILED)).status == "failed"
