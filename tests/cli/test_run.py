"""Submitting, waiting and detaching."""

from __future__ import annotations

import json
import uuid

from mirrorneuron.store.keys import result_channel
from tests.cli.conftest import RESEARCH, Mn, Started
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


def waiters(server: ValkeyServer, job: str) -> int:
    """The number of clients that wait for the notification of the end of *job*."""
    [(_, number)] = server.client.pubsub_numsub(result_channel(job))
    return int(number)


def test_no_await_prints_the_job_id(mn: Mn):
    job = mn("run", RESEARCH, "--no-await").stdout.strip()
    assert mn("wait", job).returncode == 0
    document = json.loads(mn("run", RESEARCH, "--no-await", "--json").stdout)
    assert mn("wait", document["job_id"]).returncode == 0


def test_the_same_id_and_bundle_are_the_same_job(mn: Mn):
    first = json.loads(mn("run", RESEARCH, "--job-id", "once", "--json").stdout)
    assert json.loads(mn("run", RESEARCH, "--job-id", "once", "--json").stdout) == first


def test_ctrl_c_detaches_and_the_job_continues(env, gate, mn: Mn, server):
    with Started("run", str(gate), env=env) as run:
        job = run.line_of_stderr("mn: job ").split()[-1]
        wait_until(lambda: waiters(server, job))
        code, out, err = run.ctrl_c()
    assert (code, out, err) == (130, "", f"mn: the job continues: mn wait {job}\n")
    gate.open()
    assert mn("wait", job).returncode == 0


def test_ctrl_c_ends_a_wait_and_not_the_job(env, gate, mn: Mn, server):
    job = mn("run", str(gate), "--no-await").stdout.strip()
    with Started("wait", job, "--json", env=env) as wait:
        wait_until(lambda: waiters(server, job))
        assert wait.ctrl_c() == (130, "", f"mn: the job continues: mn wait {job}\n")
    with Started("events", job, "--follow", env=env) as events:
        assert "job_pending" in events.line()
        code, _, err = events.ctrl_c()
        assert (code, err) == (130, f"mn: the job continues: mn events {job} --follow\n")
    gate.open()
    assert mn("wait", job).returncode == 0


def test_a_run_names_the_pools_that_no_node_serves(env):
    """It waits for a node and starts none: the server is not the embedded one."""
    lonely = {**env, "MIRROR_NEURON_REDIS_NAMESPACE": f"lonely-{uuid.uuid4().hex}"}
    with Started("run", RESEARCH, env=lonely) as run:
        job = run.line_of_stderr("mn: job ").split()[-1]
        assert run.line_of_stderr("serves") == "mn: no node serves pool light yet: start one with `mn worker`\n"
        assert run.ctrl_c() == (130, "", f"mn: the job continues: mn wait {job}\n")


def test_a_run_prints_the_command_that_starts_a_node_for_its_pool(env, tmp_path, mn: Mn):
    node = {"node_id": "work", "agent_type": "executor", "config": {"command": "true", "pool": "gpu", "pool_slots": 2}}
    graph = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["work"], "nodes": [node]}
    (tmp_path / "manifest.json").write_text(json.dumps(graph))
    with Started("run", str(tmp_path), env=env) as run:
        job = run.line_of_stderr("mn: job ").split()[-1]
        said = "mn: no node serves pool gpu with 2 slots yet: start one with `mn worker --pool gpu --slots 2`\n"
        assert run.line_of_stderr("serves") == said
        run.ctrl_c()
    assert mn("cancel", job).returncode == 0


def test_events_are_followed_to_the_end_of_the_job(env, gate, mn: Mn):
    job = mn("run", str(gate), "--no-await").stdout.strip()
    with Started("events", job, "--follow", "--json", env=env) as follow:
        assert follow.document()["type"] == "job_pending"
        gate.open()
        out, _ = follow.process.communicate(timeout=60)
    kinds = [json.loads(line)["type"] for line in out.splitlines()]
    assert kinds[-1] == "job_completed"
    assert follow.process.returncode == 0


def test_events_can_be_limited(mn: Mn, client):
    mn("run", RESEARCH, "--job-id", "narrow")
    every = client.events("narrow")
    assert json.loads(mn("events", "narrow", "--limit", "2", "--json").stdout) == every[-2:]
    after = every[3]["id"]
    assert json.loads(mn("events", "narrow", "--after", after, "--json").stdout) == every[4:]
    followed = mn("events", "narrow", "--follow", "--limit", "3", "--json").stdout.splitlines()
    assert [json.loads(line) for line in followed] == every[-3:]
    plain = mn("events", "narrow", "--after", after).stdout.splitlines()
    assert [line.split()[1] for line in plain] == [event["id"] for event in every[4:]]
