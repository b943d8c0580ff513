"""Inspection of jobs, agents, nodes and events: the promised fields and their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NotRequired, get_origin, get_type_hints

import pytest

from mirrorneuron import JobNotFound
from mirrorneuron.api import streams
from mirrorneuron.job import (
    AgentSnapshot,
    ClusterOverview,
    Event,
    EventType,
    JobDetails,
    JobMap,
    JobStatus,
    JobSummary,
    ManifestRef,
    NodeInfo,
    PoolInfo,
)
from tests.support.graphs import (
    PATIENCE_MS,
    collector,
    ended,
    executor,
    finish,
    keys_of,
    kinds,
    line,
    manifest,
    router,
    single,
    snapshots,
    until_there,
)
from tests.support.waiting import wait_until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def assert_shape(record: Mapping[str, Any], shape: Any) -> None:
    """*record* has the keys of the TypedDict *shape*: all required ones, and otherwise only optional ones."""
    hints = get_type_hints(shape, include_extras=True)
    optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    assert set(record) | optional == set(hints)


@pytest.fixture(scope="module")
def job(client):
    return ended(client, line(3))


# ------------------------------------------------------------------ the job map


def test_a_job_map_has_exactly_the_promised_fields(client, job):
    assert_shape(job, JobMap)
    assert_shape(job["manifest_ref"], ManifestRef)
    assert job == client.inspect_job(job["job_id"])
    assert all(TIME.fullmatch(job[name]) for name in ("submitted_at", "updated_at", "started_at", "finished_at"))
    assert job["submitted_at"] <= job["started_at"] <= job["finished_at"] == job["updated_at"]
    assert (job["run"], job["daemon"], job["root_agent_ids"], job["idle_since"]) == (1, False, ["r0"], None)
    assert re.fullmatch(r"[0-9a-f]{64}", job["manifest_ref"]["digest"])


def test_a_job_map_has_the_path_of_its_bundle(unserved, tmp_path):
    """Folder and manifest path for a bundle from a folder; null for one from a mapping."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["r"],'
                                          ' "nodes": [{"node_id": "r", "agent_type": "router"}]}')  # fmt: skip
    of_folder = unserved.inspect_job(unserved.run_manifest(folder))["manifest_ref"]
    assert (of_folder["job_path"], of_folder["manifest_path"]) == (str(folder), str(folder / "manifest.json"))
    of_mapping = unserved.inspect_job(unserved.run_manifest(line(3)))["manifest_ref"]
    assert (of_mapping["job_path"], of_mapping["manifest_path"]) == (None, None)


def test_a_pending_job_has_no_result_and_no_start(unserved):
    found = unserved.inspect_job(unserved.run_manifest(line(3)))
    assert_shape(found, JobMap)
    assert (found["status"], found["result"], found["started_at"], found["finished_at"]) == ("pending", *[None] * 3)


# ------------------------------------------------------------------ agents


def test_every_node_of_the_manifest_has_a_snapshot(client, job):
    """In manifest order, also for nodes that had no message."""
    agents = client.inspect_agents(job["job_id"])
    assert [agent["agent_id"] for agent in agents] == ["r0", "r1", "end"]
    for agent in agents:
        assert_shape(agent, AgentSnapshot)
        assert agent["node_id"] == agent["agent_id"]
        assert (agent["status"], agent["mailbox_depth"], agent["processed_messages"]) == ("completed", 0, 1)
        assert (agent["parent_job_id"], agent["assigned_node"]) == (job["job_id"], client_node(client))
        assert agent["metadata"]["paused"] is False
    assert [agent["metadata"]["outbound_edges"] for agent in agents] == [1, 1, 0]


def client_node(client) -> str:
    return f"light@{client.settings.redis_namespace}"


def test_a_snapshot_tells_running_queued_and_ready_agents_apart(client, outside):
    """running: its command runs; queued: it has messages and no slot; ready: it has no messages."""
    gate = until_there(outside / "gate")
    nodes = [
        router("spread"),
        executor("works", gate, complete_job=True),
        executor("elsewhere", "true", pool="nobody_serves_this"),
        collector("waits", 2),
    ]
    edges = [("spread", name, "go") for name in ("works", "elsewhere", "waits")]
    job_id = client.run_manifest(manifest(nodes, edges))
    statuses = {"spread": "ready", "works": "running", "elsewhere": "queued", "waits": "ready"}

    def all_tell() -> dict[str, Any] | None:
        found = snapshots(client, job_id)
        return found if {name: agent["status"] for name, agent in found.items()} == statuses else None

    found = wait_until(all_tell)
    assert TIME.fullmatch(found["works"]["last_heartbeat_at"])
    assert found["works"]["assigned_node"] == f"default@{client.settings.redis_namespace}"
    assert [found[name]["mailbox_depth"] for name in ("elsewhere", "waits")] == [1, 1]
    (outside / "gate").touch()
    assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] == "completed"


def test_the_snapshot_of_a_failed_agent_has_its_error(client):
    job = ended(client, single("exit 4"))
    (agent,) = client.inspect_agents(job["job_id"])
    assert (agent["status"], agent["last_error"]) == ("error", "command exited with code 4")
    assert agent["mailbox_depth"] == 1  # kept for a retry


# ------------------------------------------------------------------ events


def test_events_are_the_history_of_the_job(client, job):
    events = client.events(job["job_id"])
    for event in events:
        assert_shape(event, Event)
        assert TIME.fullmatch(event["timestamp"])
        assert event["job_id"] == job["job_id"]
        EventType(event["type"])
    story = [event["type"] for event in events]
    assert story[:4] == ["job_pending", "job_validated", "job_scheduled", "job_running"]
    assert story[-1] == "job_completed"
    assert [e["agent_id"] for e in events if e["type"] == "agent_message_received"] == ["r0", "r1"]


def test_events_can_be_read_from_the_last_one_seen(client, job):
    """`after` alone: all later events. `limit` alone: the newest; with `after`: the next."""
    events = client.events(job["job_id"])
    assert client.events(job["job_id"], after=events[2]["id"]) == events[3:]
    assert client.events(job["job_id"], after=events[-1]["id"]) == []
    assert client.events(job["job_id"], limit=2) == events[-2:]
    assert client.events(job["job_id"], after=events[0]["id"], limit=2) == events[1:3]


def test_a_stream_of_events_is_live_and_ends_with_the_job(client, outside):
    """Events arrive as they happen: the command is released only after its start has been seen."""
    job_id = client.run_manifest(single(until_there(outside / "gate")))
    seen = []
    for event in client.stream_events(job_id):
        seen.append(event)
        if event["type"] == "executor_lease_acquired":
            (outside / "gate").touch()
    assert seen == client.events(job_id)
    assert seen[-1]["type"] == "job_completed"


def test_a_stream_continues_after_a_given_event(client, job, monkeypatch):
    monkeypatch.setattr(streams, "EVENTS_MS", 20)
    events = client.events(job["job_id"])
    assert list(client.stream_events(job["job_id"], after=events[1]["id"])) == events[2:]
    assert list(client.stream_events(job["job_id"], after=events[-1]["id"])) == []


# ------------------------------------------------------------------ nodes, lists, overview


def test_nodes_show_their_pools_and_hardware(client, node):
    found = {info["name"].partition("@")[0]: info for info in client.inspect_nodes()}
    assert set(found) == {"light", "default"}
    for pool, slots in (("light", 1), ("default", node.settings.pools["default"])):
        info = found[pool]
        assert_shape(info, NodeInfo)
        assert info["pid"] == node.pids[pool]
        assert info["pools"].keys() == {pool}
        assert_shape(info["pools"][pool], PoolInfo)
        assert info["pools"][pool]["slots"] == slots
        assert info["hardware"]["cpus"] >= 1
        assert info["hardware"]["memory_bytes"] > 0
        assert {"python", "celery", "mirrorneuron"} <= info["versions"].keys()


def test_a_namespace_without_nodes_has_none(unserved):
    assert unserved.inspect_nodes() == []


def test_jobs_are_listed_newest_first(unserved):
    ids = [unserved.run_manifest(line(3), job_id=f"job-{number}") for number in range(4)]
    finish(unserved, ids[1], JobStatus.FAILED)
    listed = unserved.list_jobs()
    for summary in listed:
        assert_shape(summary, JobSummary)
    stamps = [summary["submitted_at"] for summary in listed]
    assert stamps == sorted(stamps, reverse=True)
    assert {summary["job_id"] for summary in listed} == set(ids)
    assert unserved.list_jobs(limit=2) == listed[:2]
    assert ids[1] not in [summary["job_id"] for summary in unserved.list_jobs(include_terminal=False)]
    assert [summary["job_id"] for summary in unserved.list_jobs(status="failed")] == [ids[1]]
    assert unserved.list_jobs(status="failed", include_terminal=False) == unserved.list_jobs(status="failed")
    assert unserved.list_jobs(limit=0) == []
    with pytest.raises(ValueError, match="sleeping"):
        unserved.list_jobs(status="sleeping")


def test_an_index_entry_without_a_job_is_skipped(unserved, server):
    """After a crash between index and record, or after a record expired, the list has no entry for it."""
    job_id = unserved.run_manifest(line(3))
    server.client.zadd(keys_of(unserved).jobs, {"ghost": 1e15})
    assert [summary["job_id"] for summary in unserved.list_jobs()] == [job_id]


def test_job_details_are_record_agents_and_newest_events(client, job):
    details = client.job_details(job["job_id"], event_limit=3)
    assert_shape(details, JobDetails)
    assert details["job"] == job
    assert details["agents"] == client.inspect_agents(job["job_id"])
    assert details["events"] == client.events(job["job_id"])[-3:]


def test_the_overview_counts_every_status(unserved):
    ids = [unserved.run_manifest(line(3)) for _ in range(3)]
    finish(unserved, ids[0])
    overview = unserved.cluster_overview(limit=2)
    assert_shape(overview, ClusterOverview)
    assert overview["counts"] == {**dict.fromkeys(map(str, JobStatus), 0), "pending": 2, "cancelled": 1}
    assert len(overview["jobs"]) == 2
    assert overview["nodes"] == []


@pytest.mark.parametrize("verb", ["inspect_job", "inspect_agents", "events", "stream_events", "job_details"])
def test_an_unknown_job_is_an_error_at_once(client, verb):
    """Also for a stream, at the call and not at the first iteration."""
    with pytest.raises(JobNotFound, match="no job 'nobody'"):
        getattr(client, verb)("nobody")


def test_the_events_of_an_executor_name_its_lease(client):
    job = ended(client, single("true"))
    story = kinds(client, job["job_id"])
    of_lease = [kind for kind in story if kind.startswith("executor_lease")]
    assert of_lease == [f"executor_lease_{word}" for word in ("requested", "acquired", "released")]
    assert "sandbox_job_completed" in story
    lease = job["result"]["output"]["sandbox"]["lease"]
    assert lease.keys() == {"lease_id", "pool", "slots", "queue_wait_ms"}
    assert (lease["pool"], lease["slots"]) == ("default", 1)
