"""From submission to end: the Celery messages of a job, which do not grow, and its Redis keys."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from mirrorneuron.api.client import Client
from mirrorneuron.message import Message
from tests.support.graphs import (
    PATIENCE_MS,
    completed,
    ended,
    executor,
    fan,
    keys_of,
    light_fan,
    line,
    manifest,
    router,
)

Graph = Callable[[int], dict[str, Any]]
FOR_EVER = -1  # the time to live of a key without one


def queued(client: Client, server: redis.Redis) -> list[dict[str, Any]]:
    """The messages in the light queue, newest first."""
    return [json.loads(raw) for raw in server.lrange(f"{client.settings.redis_namespace}.light", 0, -1)]


def chain_of(sent: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps that come after a message's own, first step first."""
    _, _, embed = json.loads(base64.b64decode(sent["body"]))
    return (embed["chain"] or [])[::-1]


def keys(server: redis.Redis, client: Client, job_id: str) -> list[str]:
    """All keys of a job, without their common prefix: "" is the record."""
    stem = keys_of(client).job(job_id)
    pattern = stem.replace("[", "\\[") + "*"
    return sorted(key.decode().removeprefix(stem) for key in server.scan_iter(pattern, count=10_000))


def test_a_submission_is_one_message_with_the_job_id(unserved, server):
    """Task id and root id of the head are the job id; its shadow name is that of the node."""
    job_id = unserved.run_manifest(line(4))
    (sent,) = queued(unserved, server.client)
    headers = sent["headers"]
    assert (headers["id"], headers["root_id"], headers["parent_id"]) == (job_id, job_id, None)
    assert (headers["task"], headers["shadow"], headers["ignore_result"]) == (
        "mirrorneuron.open_job",
        "graph.open_job",
        True,
    )
    assert sent["content-type"] == "application/json"


def test_the_chain_is_the_linear_run_of_the_manifest(unserved, server):
    """`open_job | two | three`, each under its node's name, in its pool's queue, and without a result.

    `open_job` runs the entrypoint.
    """
    graph = manifest(
        [router("one"), executor("two", "true", pool="gpu"), router("three")],
        [("one", "two", "go"), ("two", "three", "executor_result")],
    )
    unserved.run_manifest(graph)
    (sent,) = queued(unserved, server.client)
    steps = [step["options"] for step in chain_of(sent)]
    ns = unserved.settings.redis_namespace
    assert [step["shadow"] for step in steps] == ["graph.two", "graph.three"]
    assert [step["queue"] for step in steps] == [f"{ns}.pool.gpu", f"{ns}.light"]
    assert all(step["ignore_result"] for step in steps)


def test_a_job_is_opened_in_the_pool_of_its_entrypoint(unserved, server):
    """So that one task opens the job and runs the entrypoint. Several entrypoints may have different pools."""
    pools = {
        "pool.gpu": manifest([executor("work", "true", pool="gpu")]),
        "light": {**manifest([executor("a", "true"), executor("b", "true")]), "entrypoints": ["a", "b"]},
    }
    for queue, graph in pools.items():
        unserved.run_manifest(graph)
        name = f"{unserved.settings.redis_namespace}.{queue}"
        assert server.client.llen(name) == 1, queue


def test_several_entrypoints_are_opened_by_one_message(unserved, server):
    unserved.run_manifest({**manifest([router("a"), router("b")]), "entrypoints": ["a", "b"]})
    (sent,) = queued(unserved, server.client)
    assert chain_of(sent) == []


@pytest.mark.parametrize("graph", [light_fan, line], ids=["wide", "long"])
def test_no_message_grows_with_the_graph(unserved, server, graph: Graph):
    """With a hundred times the nodes the message has the same length, except for some digits."""
    for nodes in (20, 2_000):
        unserved.run_manifest(graph(nodes), job_id=f"job-{nodes:06}")
    large, small = (len(json.dumps(sent)) for sent in queued(unserved, server.client))
    assert abs(large - small) < 50


def test_the_log_of_a_node_has_the_names_of_manifest_nodes(client, node):
    """`Task <graph>.<node>[<id>]`; the first has the job's id."""
    # The first command is longer than the time slice of a task, so the second one is run by the next task of the chain.
    nodes = [executor("first", "sleep 0.2"), executor("shows_its_name", "true", complete_job=True)]
    graph = {**manifest(nodes, [("first", "shows_its_name", "executor_result")]), "graph_id": "named"}
    job_id = ended(client, graph)["job_id"]
    log = node.log.read_text(errors="replace")
    assert f"Task named.open_job[{job_id}] received" in log
    assert "Task named.shows_its_name[" in log


def test_no_results_of_agent_tasks_are_stored(client, server):
    """Neither of tasks that ran nor of tasks removed from a chain: the job map is the only result."""
    before = set(server.client.scan_iter("celery-task-meta-*", count=10_000))
    completed(client, line(40))
    completed(client, fan([executor(f"e{n}", "true") for n in range(3)], "executor_result"))
    ended(client, manifest([executor("bad", "exit 1")]))
    assert set(server.client.scan_iter("celery-task-meta-*", count=10_000)) <= before


@pytest.fixture(scope="module")
def wide_job(client):
    """An ended job of 502 agents."""
    job_id, job = client.run_manifest(light_fan(500), await_=True, timeout=PATIENCE_MS)
    assert job["result"]["output"]["count"] == 500
    return job_id


def test_each_agents_last_consumed_message_is_kept(client, server, wide_job):
    """Mailboxes are empty; each agent keeps only the last message that it consumed."""
    names = keys(server.client, client, wide_job)
    assert [name for name in names if name.startswith(":mail:")] == []
    agents = [name.removeprefix(":agent:") for name in names if name.startswith(":agent:")]
    assert len(agents) == 502
    pipe = server.client.pipeline(transaction=False)
    for agent in agents:
        pipe.hget(keys_of(client).agent(wide_job, agent), "last")
    for agent, last in zip(agents, pipe.execute(), strict=True):
        assert Message.parse(last).envelope["to"] == agent


def test_all_keys_of_an_ended_job_expire(client, server, wide_job):
    """Every key has a TTL; claims and ready sets do not exist any more."""
    names = keys(server.client, client, wide_job)
    pipe = server.client.pipeline(transaction=False)
    for name in names:
        pipe.ttl(keys_of(client).job(wide_job) + name)
    eternal = [name for name, seconds in zip(names, pipe.execute(), strict=True) if seconds == FOR_EVER]
    assert eternal == []
    assert [name for name in names if name.startswith((":ready:", ":claims"))] == []


def test_a_failed_job_keeps_its_mailboxes_as_long_as_its_record(client, server):
    """Messages that were not consumed are kept for a retry, and expire with the job."""
    job_id = ended(client, manifest([executor("bad", "exit 1")]))["job_id"]
    assert ":mail:bad" in keys(server.client, client, job_id)
    record, mail = keys_of(client).job(job_id), keys_of(client).mail(job_id, "bad")
    kept_s = server.client.ttl(record)  # first, for what is asked later has less left
    assert 0 < server.client.ttl(mail) <= kept_s <= client.settings.retention_seconds


def test_a_message_keeps_its_correlation_id_and_headers(client):
    """Correlation id, headers and stream are passed on; each message names its cause."""
    seeded = {"body": 1, "correlation_id": "c-1", "headers": {"tenant": "x"}, "stream": {"seq": 4}}
    command = "cat $MIRROR_NEURON_MESSAGE_FILE"
    graph = manifest(
        [router("one"), router("two"), executor("three", command, complete_job=True)],
        [("one", "two", "go"), ("two", "three", "go")],
        initial_inputs={"one": seeded},
    )
    message = json.loads(completed(client, graph)["sandbox"]["stdout"])
    envelope = message["envelope"]
    assert (envelope["correlation_id"], envelope["from"], envelope["to"]) == ("c-1", "two", "three")
    assert (envelope["type"], envelope["class"], envelope["spec_version"]) == ("go", "event", "mn-msg/1")
    assert envelope["causation_id"] != envelope["message_id"]
    assert (message["headers"], message["stream"], message["body"]) == ({"tenant": "x"}, {"seq": 4}, 1)
