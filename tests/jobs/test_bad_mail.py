"""Bytes in a mailbox that are not a message: the job fails and says where and why, and the worker keeps running."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from mirrorneuron import JobStateError
from mirrorneuron.api.client import Client
from tests.support.graphs import PATIENCE_MS, agent, collector, completed, executor, is_alive, line, manifest
from tests.support.node import RealNode
from tests.support.waiting import wait_until

GARBAGE = [
    b"",
    b"\xff\x00",
    b"{",
    b"[1]",
    b'{"envelope": {}, "body": 1, "headers": {}, "artifacts": [], "stream": null}',
]
#: none of them tries garbage a second time
AGENTS = {
    "sensor": agent("in", "sensor"),
    "router": agent("in", "router"),
    "aggregator": collector("in", 2),
    "executor": executor("in", "true", max_attempts=3, retry_backoff_ms=600_000),
    "batch": executor("in", "true", "batch", batch_size=2),
    "module": agent("in", "module", module="nothing:Here", max_attempts=3),
}


def fails(client: Client, node: RealNode, job_id: str) -> dict[str, Any]:
    """The result of the failed job; the workers are the same processes as before, and run another job."""
    pids = dict(node.pids)
    job = client.wait_for_job(job_id, PATIENCE_MS)
    assert job["status"] == "failed"
    assert completed(client, line(3))["count"] == 1
    assert node.pids == pids
    assert all(is_alive(pid) for pid in pids.values())
    assert job["result"] is not None
    return job["result"]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", AGENTS)
def test_garbage_in_a_mailbox_fails_the_job_and_ends_no_worker(
    client: Client, node: RealNode, kind: str, garbage: bytes
) -> None:
    graph = manifest([AGENTS[kind], agent("ear", "sensor")], entrypoints=["ear"])
    job_id = client.run_manifest(graph)
    store = client._live_parts().store
    store.client.rpush(store.keys.mail(job_id, "in"), garbage)
    with suppress(JobStateError):  # a batch is run with what there is where the job is idle: it has failed already
        client.send_message(job_id, "in", {"body": 2})
    result = fails(client, node, job_id)
    assert result["agent_id"] == "in"
    assert result["error"].startswith("cannot parse message 1 of the mailbox: ")
    assert result["details"]["text"] == garbage.decode("utf-8", "replace")
    assert client.dead_letters(job_id) == []
    assert client.inspect_agents(job_id)[0]["status"] == "error"


@pytest.mark.parametrize("state", [b"{", b"[]", b'{"collected": 5}', b'{"received": "many"}'])
def test_a_state_that_cannot_be_read_fails_the_job_and_ends_no_worker(
    client: Client, node: RealNode, state: bytes
) -> None:
    job_id = client.run_manifest(manifest([collector("in", 2)], entrypoints=["in"], initial_inputs={"in": [1]}))
    wait_until(lambda: client.inspect_job(job_id)["idle_since"])  # nobody writes another state over it
    store = client._live_parts().store
    store.client.hset(store.keys.agent(job_id, "in"), "state", state)
    client.send_message(job_id, "in", {"body": 2})
    assert fails(client, node, job_id)["agent_id"] == "in"
