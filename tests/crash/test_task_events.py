"""Celery's task events, which Flower shows: they are sent in batches, and none is lost when a worker stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from tests.support.graphs import PATIENCE_MS, line
from tests.support.node import RealNode
from tests.support.waiting import wait_until

KINDS = ("task-received", "task-started", "task-succeeded")


@pytest.fixture
def seen(own: RealNode) -> Iterator[set[tuple[str, str]]]:
    """(kind, task id) of the events received."""
    found: set[tuple[str, str]] = set()
    app = make_app(own.settings)

    def note(event: dict[str, Any]) -> None:
        found.add((event["type"], event.get("uuid", "")))

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
        thread.start()
        wait_until(lambda: ("worker-heartbeat", "") in found)
        yield found
        receiver.should_stop = True
        thread.join()


def test_all_events_arrive_if_the_worker_stops_at_once(own: RealNode, jobs: Client, seen: set[tuple[str, str]]) -> None:
    ids = [jobs.run_manifest(line(3)) for _ in range(20)]
    for job_id in ids:
        assert jobs.wait_for_job(job_id, PATIENCE_MS)["status"] == "completed"
    own.ask_to_stop("light").wait()
    wait_until(lambda: seen >= {(kind, job_id) for kind in KINDS for job_id in ids})
