"""Concurrency: slots, pools, and long commands that block no other agent."""

from __future__ import annotations

import os
import time

from mirrorneuron.api.client import Client
from mirrorneuron.bundle.manifest import AgentType
from mirrorneuron.settings import Settings
from tests.support.graphs import (
    PATIENCE_MS,
    agent,
    completed,
    executor,
    fan,
    finish,
    is_alive,
    keys_of,
    line,
    manifest,
    payloads,
    router,
    single,
    snapshots,
    until_there,
)
from tests.support.node import RealNode
from tests.support.waiting import wait_until


def slots_in_use(client: Client) -> int:
    pools = [node["pools"] for node in client.inspect_nodes()]
    return sum(pool["default"]["in_use"] for pool in pools if "default" in pool)


def test_two_executors_of_one_job_run_at_the_same_time(client, outside):
    """Each waits for the other's file, so neither could end alone."""
    meet = "touch {0}/{1}; " + "while [ ! -e {0}/{2} ]; do sleep 0.02; done"
    leaves = [executor("a", meet.format(outside, "a", "b")), executor("b", meet.format(outside, "b", "a"))]
    assert completed(client, fan(leaves, "executor_result"))["count"] == 2


def test_a_long_command_blocks_no_other_agent(client, outside):
    """One of six executors does not end: the other five do, and so do other jobs, with light agents or executors."""
    gate = executor("long", until_there(outside / "gate"))
    leaves = [gate, *(executor(f"short{number}", "true") for number in range(5))]
    job_id = client.run_manifest(fan(leaves, "executor_result"))
    assert completed(client, line(5))["count"] == 1
    assert completed(client, single("echo done"))["sandbox"]["stdout"] == "done\n"
    wait_until(lambda: snapshots(client, job_id)["all"]["mailbox_depth"] == 5)
    wait_until(lambda: snapshots(client, job_id)["long"]["status"] == "running")
    found = snapshots(client, job_id)
    assert [found[f"short{number}"]["processed_messages"] for number in range(5)] == [1] * 5
    assert (found["long"]["status"], found["long"]["processed_messages"]) == ("running", 0)
    (outside / "gate").touch()
    assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["result"]["output"]["count"] == 6


def test_light_agents_never_wait_for_a_slot(client, outside):
    """All slots are taken for long; routers and aggregators of this and other jobs still run."""
    slots = client.settings.pools["default"]
    long = [executor(f"long{number}", until_there(outside / "gate")) for number in range(slots)]
    nodes = [router("spread"), *long, router("light")]
    edges = [("spread", node["node_id"], "go") for node in nodes[1:]]
    job_id = client.run_manifest(manifest(nodes, edges))
    wait_until(lambda: [snapshots(client, job_id)[n["node_id"]]["status"] for n in long] == ["running"] * slots)
    wait_until(lambda: snapshots(client, job_id)["light"]["processed_messages"] == 1)
    assert completed(client, line(5))["count"] == 1
    wait_until(lambda: slots_in_use(client) == slots)
    (outside / "gate").touch()
    assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] == "completed"


def test_an_unserved_pool_blocks_only_the_agents_that_need_it(client):
    """The agent waits for its pool, the job stays running, and other agents and jobs are not affected."""
    nodes = [router("spread"), executor("gpu", "true", pool="gpu"), executor("cpu", "true")]
    job_id = client.run_manifest(manifest(nodes, [("spread", "gpu", "go"), ("spread", "cpu", "go")]))
    wait_until(lambda: snapshots(client, job_id)["cpu"]["processed_messages"] == 1)
    assert completed(client, single("true"))["agent_id"] == "work"
    gpu = snapshots(client, job_id)["gpu"]
    assert (gpu["status"], gpu["mailbox_depth"], gpu["assigned_node"]) == ("queued", 1, None)
    assert client.inspect_job(job_id)["status"] == "running"
    finish(client, job_id)


def test_a_run_says_which_slots_it_took_and_how_long_it_waited(client):
    body = completed(client, single("true", pool_slots=2))
    lease = body["sandbox"]["lease"]
    assert (lease["pool"], lease["slots"]) == ("default", 2)
    assert lease["queue_wait_ms"] >= 0


def test_a_run_of_more_slots_than_any_node_has_waits_and_the_diagnosis_says_so(client):
    """It is no failed attempt: a larger node may be started."""
    job_id = client.run_manifest(single("true", pool_slots=99))
    found = wait_until(lambda: found if (found := client.why(job_id))["cause"] == "no_node" else None)
    assert found["message"] == "work needs 99 slots of pool 'default', and the largest node has 2"
    assert found["hint"] == "start one: mn worker --slots 99"
    wait_until(lambda: payloads(client, job_id, "executor_lease_released"))
    assert client.inspect_job(job_id)["status"] == "running"
    assert client.why(job_id)["cause"] == "no_node"
    assert payloads(client, job_id, "sandbox_job_failed") == []
    client.cancel(job_id)


def test_a_run_moves_to_a_node_that_has_the_slots(redis_url, tmp_path):
    """One needs more slots than its node has; another waits at a full node. Both are given back, uncounted.

    With `retry_elsewhere` a run also moves when its node lacks a tool.
    """
    both = {"redis_url": redis_url, "redis_namespace": "moves", "temp_dir": tmp_path / "temp"}
    client, gate = Client(Settings(**both)), tmp_path / "gate"
    large = RealNode(tmp_path / "large", Settings(**both, executor_max_concurrency=3))
    large.folder.mkdir()
    with RealNode(tmp_path, Settings(**both, executor_max_concurrency=2)) as small:
        long = client.run_manifest(single(until_there(gate)))
        wait_until(lambda: snapshots(client, long)["work"]["status"] == "running")
        waits = client.run_manifest(single("true", pool_slots=2))
        wait_until(lambda: snapshots(client, waits)["work"]["status"] == "running")
        needs = client.run_manifest(single("true", pool_slots=3))
        try:
            tools = tmp_path / "tools"
            tools.mkdir()
            (tools / "only-here").symlink_to("/bin/true")
            large.add("default", "-large", PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
            for job_id in (waits, needs):
                job = client.wait_for_job(job_id, timeout=PATIENCE_MS)
                sandbox = job["result"]["output"]["sandbox"]
                assert (sandbox["node_name"], sandbox["attempts"]) == ("default@moves-large", 1)
            assert client.inspect_job(long)["status"] == "running"
            full = client.run_manifest(single(until_there(tmp_path / "second"), pool_slots=3))
            wait_until(lambda: snapshots(client, full)["work"]["assigned_node"] == "default@moves-large")
            lacks = client.run_manifest(tool(retry_elsewhere=True))
            wait_until(lambda: payloads(client, lacks, "executor_retry"))  # of the small node: the large one is full
            (tmp_path / "second").touch()
            sandbox = client.wait_for_job(lacks, timeout=PATIENCE_MS)["result"]["output"]["sandbox"]
            assert (sandbox["node_name"], sandbox["attempts"]) == ("default@moves-large", 1)
            large.stop()
            client.cancel(long)
            result = client.wait_for_job(client.run_manifest(tool()), timeout=PATIENCE_MS)["result"]
            assert (result["error"], result["details"]["node_name"]) == (
                "command not found: only-here",
                "default@moves",
            )
        finally:
            (tmp_path / "second").touch()
            gate.touch()
            large.stop()
        assert "Traceback" not in small.log.read_text()


def tool(**config):
    """A job whose command only one node has."""
    node = agent("work", "executor", command=["only-here"], complete_job=True, **config)
    return manifest([node])


def test_a_claim_is_renewed_while_its_command_runs(tight, outside, server):
    """The lease of three seconds is renewed repeatedly while the command runs; the command runs once."""
    script = f"echo x >> {outside}/tries; {until_there(outside / 'gate')}"
    job_id = tight.run_manifest(single(script))
    claims = keys_of(tight).claims(job_id)

    def lease_end() -> float:
        return server.client.zscore(claims, "work") or 0.0

    first = wait_until(lease_end)
    second = wait_until(lambda: (end := lease_end()) > first and end)
    wait_until(lambda: lease_end() > second)
    wait_until(lambda: time.time() * 1000 > first)  # the first lease is over
    assert snapshots(tight, job_id)["work"]["status"] == "running"
    (outside / "gate").touch()
    job = tight.wait_for_job(job_id, timeout=PATIENCE_MS)
    assert (job["status"], job["result"]["output"]["sandbox"]["attempts"]) == ("completed", 1)
    assert (outside / "tries").read_text() == "x\n"
    assert not server.client.exists(claims)


def test_the_commands_of_an_ended_job_are_killed(tight, outside):
    """When the job has ended, renewals are refused and the lease keeper kills its commands."""
    job_id = tight.run_manifest(single(f"echo $$ > {outside}/pid; {until_there(outside / 'gate')}"))
    wait_until(lambda: (outside / "pid").exists() and (outside / "pid").read_text().strip())
    wait_until(lambda: snapshots(tight, job_id)["work"]["status"] == "running")
    finish(tight, job_id)
    pid = int((outside / "pid").read_text())
    wait_until(lambda: not is_alive(pid))
    assert tight.inspect_job(job_id)["status"] == "cancelled"


def test_ready_agents_of_many_jobs_share_the_slots(client):
    """Forty jobs of one command each, submitted at once, all complete."""
    ids = [client.run_manifest(single("true")) for _ in range(40)]
    assert {client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] for job_id in ids} == {"completed"}
    assert all(payloads(client, job_id, "sandbox_job_completed") == [{"exit_code": 0}] for job_id in ids)


def test_a_wide_fan_of_executors_runs_each_once(client, outside):
    """Sixty executors on two slots: each writes one line, and no line comes twice."""
    leaves = [executor(f"e{number}", f"echo {number} >> {outside}/lines") for number in range(60)]
    job_id, job = client.run_manifest(fan(leaves, "executor_result"), await_=True, timeout=PATIENCE_MS)
    assert job["result"]["output"]["count"] == 60
    assert sorted(map(int, (outside / "lines").read_text().split())) == list(range(60))
    agents = snapshots(client, job_id).values()
    assert {agent["processed_messages"] for agent in agents if agent["agent_type"] == AgentType.EXECUTOR} == {1}
