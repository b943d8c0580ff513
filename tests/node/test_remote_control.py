"""Remote control: what anybody who reaches the broker can send to a worker must not make the node useless."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.pools import LIGHT, queue
from tests.support.graphs import line
from tests.support.node import RealNode
from tests.support.waiting import wait_until
from workers.celery_overrides.remote_control import REFUSED

ARGUMENTS: dict[str, dict[str, Any]] = {
    "revoke": {"task_id": "x", "terminate": True},
    "revoke_by_stamped_headers": {"headers": {"a": "b"}},
    "terminate": {"signal": "KILL", "task_id": "x"},
    "rate_limit": {"task_name": "mirrorneuron.visit", "rate_limit": "1/h"},
    "time_limit": {"task_name": "mirrorneuron.visit", "hard": 0.001},
    "pool_grow": {"n": 5},
    "pool_shrink": {"n": 2},
    "autoscale": {"max": 0, "min": 0},
    "add_consumer": {"queue": "other"},
    "election": {"id": "x", "topic": "y"},
}


@pytest.fixture
def replies(node: RealNode) -> Any:
    app = make_app(node.settings)
    workers = sorted(f"{pool}@{node.settings.redis_namespace}" for pool in (LIGHT, "default"))

    def ask(command: str, **arguments: Any) -> dict[str, Any]:
        """The reply of each worker. A worker that is busy answers later, so it is asked again."""
        merged: dict[str, Any] = {}

        def complete() -> bool:
            for found in app.control.broadcast(command, arguments, destination=workers, reply=True, timeout=5) or ():
                merged.update(found)
            return sorted(merged) == workers

        wait_until(complete, timeout=60)
        return merged

    yield ask
    app.close()


def test_commands_that_break_an_invariant_are_refused(node: RealNode, client: Client, replies: Any) -> None:
    for command in sorted(REFUSED):
        arguments = ARGUMENTS.get(command, {})
        if command == "cancel_consumer":
            arguments = {"queue": queue(node.settings.redis_namespace, LIGHT)}
        for reply in replies(command, **arguments).values():
            assert reply["error"].startswith(f"{command} is refused: "), reply
    assert client.run_manifest(line(3), await_=True, timeout=60_000)[1]["status"] == "completed"
    assert not any(node.ended(pool) for pool in (LIGHT, "default"))


def test_a_greeting_does_not_revoke_tasks(client: Client, replies: Any) -> None:
    """Workers of Celery tell each other which tasks were revoked. The first task of a job has the job's id."""
    job_id = f"greeted-{uuid.uuid4().hex}"
    for reply in replies("hello", from_node="other@box", revoked=[job_id]).values():
        assert job_id not in reply["revoked"]
    assert all(found["ok"] == "pong" for found in replies("ping").values())
    assert client.run_manifest(line(2), job_id=job_id, await_=True, timeout=60_000)[1]["status"] == "completed"
