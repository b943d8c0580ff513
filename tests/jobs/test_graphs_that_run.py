"""Graphs end to end: batches and counters, loops, conditions, and idle jobs."""

from __future__ import annotations

import json

import pytest

from tests.support.graphs import (
    agent,
    collector,
    completed,
    ended,
    executor,
    failed,
    finish,
    kinds,
    line,
    manifest,
    payloads,
    router,
    single,
    snapshots,
)
from tests.support.waiting import wait_until


def rows(path) -> list:
    return [json.loads(row) for row in path.read_text().splitlines()]


# ------------------------------------------------------------------ templates


def test_a_batch_is_one_run_and_the_remainder_runs_before_the_job_is_idle(client, outside):
    """Five messages in batches of two: three runs, the last with one message."""
    script = f"cat $MIRROR_NEURON_INPUT_FILE >> {outside}/runs; echo >> {outside}/runs"
    node = executor("work", script, "batch", batch_size=2)
    job = ended(client, manifest([node], initial_inputs={"work": [{"body": n} for n in range(5)]}))
    assert job["status"] == "completed"
    assert rows(outside / "runs") == [[0, 1], [2, 3], [4]]
    found = snapshots(client, job["job_id"])["work"]
    assert found["processed_messages"] == 5
    assert (found["metadata"]["batch_size"], found["metadata"]["flushed_batches"]) == (2, 3)


def test_a_partial_batch_feeds_the_agents_downstream(client):
    """Two batches, one of them partial, give the two messages that the aggregator waits for."""
    nodes = [router("spread"), executor("work", "true", "batch", batch_size=3), collector("all", 2)]
    edges = [("spread", "work", "go"), ("work", "all", "executor_result")]
    output = completed(client, manifest(nodes, edges, initial_inputs={"spread": [{"n": n} for n in range(4)]}))
    assert [len(message["input"]) for message in output["messages"]] == [3, 1]


def test_templates_count_in_the_snapshot(client):
    """`processed` of map and reduce; chunks and items of a stream."""
    nodes = [
        agent("mapped", "router", "map", emit_type="go"),
        executor("stream", "true", "stream"),
        executor("reduced", "true", "reduce"),
        agent("sum", "aggregator", "reduce", complete_after=2, output_message_type="sum"),
    ]
    edges = [("mapped", name, "go") for name in ("stream", "reduced", "sum")]
    inputs = {"mapped": [{"body": [1, 2, 3]}, {"body": {"one": 1}}]}
    job = ended(client, manifest(nodes, edges, initial_inputs=inputs, policies={"on_idle": "complete"}))
    assert job["status"] == "completed"
    found = {name: snapshot["metadata"] for name, snapshot in snapshots(client, job["job_id"]).items()}
    assert [found[name]["processed"] for name in ("mapped", "reduced", "sum")] == [2, 2, 2]
    assert (found["stream"]["chunks_received"], found["stream"]["items_seen"]) == (2, 4)


# ------------------------------------------------------------------ ways and loops


@pytest.mark.parametrize(("reading", "branch"), [(3, "low"), (30, "high"), (300, "high"), (5, "other")])
def test_the_first_matching_edge_is_taken(client, reading, branch):
    """In manifest order; an edge without a condition matches every message."""
    low = {"routing_mode": "first_match", "conditions": {"expr": "body.n < `5`"}}
    high = {"routing_mode": "first_match", "conditions": {"expr": "body.n > `5`"}}
    edges = [
        ("in", "low", "go", low),
        ("in", "high", "go", high),
        ("in", "other", "go", {"routing_mode": "first_match"}),
    ]
    graph = manifest([router("in"), router("low"), router("high"), router("other")], edges)
    output = completed(client, {**graph, "initial_inputs": {"in": {"n": reading}}})
    assert output == {branch: {"n": reading}}


def test_round_robin_continues_from_message_to_message(client):
    """Six messages over three edges: two each, in turn."""
    turn = {"routing_mode": "round_robin"}
    nodes = [router("in"), *(executor(name, "true") for name in "abc"), collector("all", 6)]
    edges = [("in", name, "go", turn) for name in "abc"] + [(name, "all", "executor_result") for name in "abc"]
    job = ended(client, manifest(nodes, edges, initial_inputs={"in": [{"n": n} for n in range(6)]}))
    assert [snapshots(client, job["job_id"])[name]["processed_messages"] for name in "abc"] == [2, 2, 2]
    by_agent = {(m["agent_id"], m["input"]["n"]) for m in job["result"]["output"]["messages"]}
    assert by_agent == {("a", 0), ("b", 1), ("c", 2), ("a", 3), ("b", 4), ("c", 5)}


def test_an_error_in_a_condition_fails_the_job(client):
    """The error names the edge; the message is kept."""
    edge = ("in", "out", "go", {"conditions": {"expr": "length(body.n) > `1`"}})
    graph = manifest([router("in"), router("out")], [edge], initial_inputs={"in": {"n": 5}})
    job = ended(client, graph)
    assert job["status"] == "failed"
    assert job["result"]["agent_id"] == "in"
    assert job["result"]["error"].startswith("cannot evaluate the condition of the edge to 'out': ")
    assert snapshots(client, job["job_id"])["in"]["mailbox_depth"] == 1


def test_a_loop_of_light_agents_ends_where_its_sensor_says(client):
    """A message goes round until it has been seen a thousand times."""
    sensor = agent("sensor", "sensor", output_message_type="seen", complete_job=True, complete_after=1_000)
    graph = manifest([router("again"), sensor], [("again", "sensor", "go"), ("sensor", "again", "seen")])
    output = completed(client, {**graph, "initial_inputs": {"again": {"x": 1}}})
    assert output == {"count": 1_000, "last_message": {"x": 1}}


def test_a_loop_of_executors_keeps_its_state(client, outside):
    """Each run sees the state of the previous one, until one completes the job."""
    state = f"cd {outside}; echo x >> runs; n=$(wc -l < runs); if [ $n -lt 5 ]; then "
    emit = """printf '{"next_state": {"n": %d}, "emit_messages": [{"type": "again", "body": %d}]}' $n $n; """
    done = """else printf '{"complete_job": {"n": %d}}' $n; fi"""
    node = executor("work", state + emit + done, output_message_type=None)
    job = ended(client, manifest([node], [("work", "work", "again")]))
    assert job["result"]["output"] == {"n": 5}
    assert snapshots(client, job["job_id"])["work"]["current_state"] == {"n": 4}


def test_an_endless_loop_does_not_block_other_jobs(client):
    """Its drain ends after a slice of time, and another job runs."""
    graph = manifest([router("ping"), router("pong")], [("ping", "pong", "go"), ("pong", "ping", "go")])
    job_id = client.run_manifest(graph)
    wait_until(lambda: snapshots(client, job_id)["ping"]["processed_messages"] > 100)
    assert [completed(client, line(5))["count"] for _ in range(3)] == [1, 1, 1]
    assert client.inspect_job(job_id)["status"] == "running"
    finish(client, job_id)


# ------------------------------------------------------------------ idle


def test_an_idle_job_completes_with_the_output_of_its_last_agents(client):
    """For each node without outgoing edges: the last body that it emitted, else the last that it received."""
    nodes = [
        router("in"),
        router("heard"),
        executor("said", "printf hi"),
        executor("mute", "true", output_message_type=None),
    ]
    edges = [("in", node["node_id"], "go") for node in nodes[1:]]
    job = ended(client, manifest(nodes, edges, initial_inputs={"in": [{"n": 1}, {"n": 2}]}))
    assert job["status"] == "completed"
    result = job["result"]
    assert (result["agent_id"], result["output"].keys()) == (None, {"heard", "said", "mute"})
    assert (result["output"]["heard"], result["output"]["mute"]) == ({"n": 2}, {"n": 2})
    assert result["output"]["said"]["sandbox"]["stdout"] == "hi"


def test_a_job_that_may_receive_messages_from_outside_waits(client):
    """An aggregator below its threshold: the job stays running, and says since when it is idle."""
    job_id = client.run_manifest(manifest([router("in"), collector("all", 2)], [("in", "all", "go")]))
    job = wait_until(lambda: (j := client.inspect_job(job_id))["idle_since"] and j)
    assert (job["status"], job["result"]) == ("running", None)
    assert kinds(client, job_id)[-1] == "job_idle"
    found = snapshots(client, job_id)["all"]
    assert (found["mailbox_depth"], found["status"]) == (1, "ready")
    finish(client, job_id)
    assert client.inspect_job(job_id)["idle_since"] is None


def test_a_daemon_waits(client):
    job_id = client.run_manifest({**manifest([router("in")]), "daemon": True})
    wait_until(lambda: client.inspect_job(job_id)["idle_since"])
    assert client.inspect_job(job_id)["daemon"] is True
    finish(client, job_id)


def test_an_idle_job_may_fail(client):
    graph = manifest([router("in"), collector("all", 2)], [("in", "all", "go")], policies={"on_idle": "fail"})
    result = failed(client, graph)
    assert (result["agent_id"], result["error"]) == (None, 'the job became idle and policies.on_idle is "fail"')


def test_a_job_whose_messages_have_expired_is_idle(client):
    """A message past its `ttl_ms` is dropped with an event, and not delivered."""
    stale = {"body": 1, "ttl_ms": 1, "timestamp": "2020-01-01T00:00:00.000Z"}
    graph = single("echo never", inputs=[stale], complete_job=False)
    job = ended(client, graph)
    assert job["status"] == "completed"
    assert [row["type"] for row in payloads(client, job["job_id"], "message_expired")] == ["init"]
    assert "sandbox_job_completed" not in kinds(client, job["job_id"])


def test_a_first_completion_wins(client):
    """Two agents complete the job at once: one result, one event."""
    nodes = [router("in"), *(executor(name, "true", complete_job=True) for name in "ab")]
    job = ended(client, manifest(nodes, [("in", "a", "go"), ("in", "b", "go")]))
    assert job["result"]["agent_id"] in "ab"
    assert kinds(client, job["job_id"]).count("job_completed") == 1


def test_a_list_of_inputs_goes_to_every_entrypoint(client):
    graph = manifest([router("a"), router("b")], initial_inputs=[{"n": 1}, {"n": 2}])
    job = ended(client, {**graph, "entrypoints": ["a", "b"]})
    assert job["result"]["output"] == {"a": {"n": 2}, "b": {"n": 2}}
    assert {s["processed_messages"] for s in snapshots(client, job["job_id"]).values()} == {2}
