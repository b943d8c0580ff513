"""Dead letters: kept with their reason, and replayed on request."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.errors import AgentNotFound, JobNotFound, JobStateError, MessageNotFound
from tests.support.graphs import PATIENCE_MS, agent, executor, failed, manifest
from tests.support.waiting import wait_until

OLD = {"timestamp": "2020-01-01T00:00:00.000Z", "ttl_ms": 600_000, "body": {"n": 1}}


def waiting() -> dict[str, Any]:
    """An agent whose only message has expired, and a sensor that completes the job."""
    nodes = [agent("work", "sensor"), agent("end", "sensor", complete_job=True)]
    return manifest(nodes, [("work", "end", "sensor_ready")], initial_inputs={"work": OLD})


def test_a_dead_letter_is_replayed_once_to_the_given_agent(client: Client) -> None:
    job_id = client.run_manifest(waiting())
    (dead,) = wait_until(lambda: client.dead_letters(job_id))
    with pytest.raises(AgentNotFound, match="nobody"):
        client.replay(job_id, dead["message_id"], to_agent="nobody")
    new = client.replay(job_id, dead["message_id"], to_agent="end")
    job = client.wait_for_job(job_id, PATIENCE_MS)
    assert job["result"] is not None
    assert job["result"]["output"]["last_message"] == {"n": 1}
    assert new != dead["message_id"]
    assert client.dead_letters(job_id) == []
    with pytest.raises(MessageNotFound):
        client.replay(job_id, dead["message_id"], to_agent="end")


def test_an_expired_message_is_replayed_with_a_new_time_to_live(client: Client) -> None:
    old = {"timestamp": "2020-01-01T00:00:00.000Z", "ttl_ms": 600_000, "body": 7}
    graph = manifest([agent("end", "sensor", complete_job=True)], initial_inputs={"end": old})
    job_id = client.run_manifest(graph)
    (dead,) = wait_until(lambda: client.dead_letters(job_id))
    assert "ttl_ms (600000)" in dead["reason"]
    client.replay(job_id, dead["message_id"])
    job = client.wait_for_job(job_id, PATIENCE_MS)
    assert job["result"] is not None
    assert job["result"]["output"]["last_message"] == 7


def test_the_message_on_which_a_job_failed_is_listed_and_left_to_retry(client: Client) -> None:
    graph = manifest([executor("work", "exit 3", complete_job=True)], initial_inputs={"work": {"n": 1}})
    failed(client, graph, job_id="dead-letters-failed")
    (dead,) = client.dead_letters("dead-letters-failed")
    assert (dead["agent_id"], dead["message"]["body"]) == ("work", {"n": 1})
    assert dead["reason"] == "command exited with code 3"
    with pytest.raises(JobStateError, match="retry"):
        client.replay("dead-letters-failed", dead["message_id"])


def test_unknown_jobs_and_unknown_messages_are_different_errors(client: Client) -> None:
    job_id = client.run_manifest(manifest([agent("s", "sensor")]))
    with pytest.raises(MessageNotFound):
        client.replay(job_id, "no-such-message")
    for call in (client.dead_letters, lambda job: client.replay(job, "m")):
        with pytest.raises(JobNotFound):
            call("no-such-job")
    client.cancel(job_id)
