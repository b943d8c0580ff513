"""Foreign tasks: garbage in a queue never ends a worker and harms no job; it is logged in one line."""

from __future__ import annotations

import itertools

import pytest

from mirrorneuron.dispatch.celery_app import DRAIN, OPEN_JOB, VISIT, make_app
from mirrorneuron.pools import queue
from tests.support.graphs import (
    PATIENCE_MS,
    collector,
    completed,
    ended,
    executor,
    finish,
    is_alive,
    job_ref,
    kinds,
    line,
    manifest,
    router,
    single,
    snapshots,
    until_there,
)
from tests.support.waiting import wait_until

DIGEST = "0" * 64
GARBAGE = [
    [],
    [1],
    ["nobody"],
    ["nobody", 1, DIGEST],
    ["nobody", 1, DIGEST, "agent"],
    ["nobody", 1, DIGEST, "agent", "more"],
    ["nobody", "one", DIGEST, "agent"],
    ["nobody", None, None, None],
    [["a", "list"], {"an": "object"}, ["b"], 5],
    ["", 0, "", ""],
    ["x" * 100_000, 10**30, "y" * 100_000, "z" * 100_000],
    ["nobody}{:*", -1, "../../etc/passwd", "\0"],
]

NO_MESSAGES = [
    b"\xff\xfe",
    b"{",
    b"5",
    b"null",
    b"[]",
    b'"text"',
    b"{}",
    b'{"properties": 5}',
    b'{"properties": {}, "body": 5}',
    b'{"properties": {"delivery_tag": "x", "delivery_info": {}}, "headers": [], "body": "%%%"}',
    b'{"properties": {"delivery_tag": "x", "body_encoding": "base64"}, "headers": {"task": 5}, "body": "%%%"}',
    b'{"properties": {"delivery_tag": "x"}, "content-type": "application/x-python-serialize", "body": "gASVAAAAAAAA"}',
    b'{"properties": {"delivery_tag": "x"}, "content-encoding": "zip", "body": "x"}',
]


@pytest.fixture
def send(client, node):
    """Send a task to one of the node's queues, as any client could; afterwards the node is unchanged."""
    app = make_app(client.settings)

    def send(name, args, pool="light", **options):
        app.send_task(name, args, queue=queue(client.settings.redis_namespace, pool), **options)

    yield send
    assert completed(client, line(3))["count"] == 1
    assert completed(client, single("true"))["agent_id"] == "work"
    assert all(is_alive(pid) for pid in node.pids.values())


@pytest.mark.parametrize("pool", ["light", "default"])
def test_wrong_arguments_never_end_a_worker(client, send, pool):
    """Wrong in number, in type or in content: the next jobs still run."""
    for name, args in itertools.product((OPEN_JOB, VISIT, DRAIN), GARBAGE):
        send(name, args, pool)
    assert "nobody" not in [job["job_id"] for job in client.list_jobs()]


@pytest.mark.parametrize("pool", ["light", "default"])
def test_invalid_messages_never_end_a_worker(client, node, send, server, pool):
    """Bytes that are not JSON, and JSON that kombu cannot parse: each is dropped, and later tasks are received."""
    name = queue(client.settings.redis_namespace, pool)
    for raw in NO_MESSAGES:
        server.client.lpush(name, raw)
    wait_until(lambda: not server.client.llen(name))


def test_an_unknown_task_never_ends_a_worker(send):
    send("somebody.elses.task", [1, 2])
    send(VISIT, [], kwargs={"job_id": "x", "unknown": 1})


def test_a_task_for_an_ended_job_changes_nothing(client, send):
    """A duplicate or late task: the record, the agents and the events do not change."""
    job = ended(client, line(3))
    ref = job_ref(client, job["job_id"])
    agents, story = client.inspect_agents(ref.job_id), kinds(client, ref.job_id)
    send(OPEN_JOB, [*ref])
    send(VISIT, [*ref, "r1"])
    send(DRAIN, [*ref, "light"])
    assert completed(client, line(3))["count"] == 1  # the queue is in order: the three have been
    assert client.inspect_job(ref.job_id) == job
    assert (client.inspect_agents(ref.job_id), kinds(client, ref.job_id)) == (agents, story)


def test_duplicate_tasks_cause_one_run(client, send, outside):
    """Twenty copies of each: the command runs once."""
    script = f"echo x >> {outside}/tries; {until_there(outside / 'gate')}"
    job_id = client.run_manifest(single(script))
    ref = job_ref(client, job_id)
    for _ in range(20):
        send(OPEN_JOB, [*ref])
        send(VISIT, [*ref, "work"], "default")
        send(DRAIN, [*ref, "default"], "default")
    (outside / "gate").touch()
    assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] == "completed"
    assert (outside / "tries").read_text() == "x\n"


def waiting_job(client) -> str:
    """A live job without ready agents."""
    job_id = client.run_manifest(manifest([router("in"), collector("all", 2)], [("in", "all", "go")]))
    wait_until(lambda: client.inspect_job(job_id)["idle_since"])
    return job_id


@pytest.mark.parametrize("what", ["run", "digest", "agent", "pool"])
def test_a_task_with_wrong_facts_about_a_live_job_does_not_harm_it(client, send, what):
    """Another run number, an unknown bundle, an agent or a pool that the job does not have."""
    job_id = waiting_job(client)
    ref = job_ref(client, job_id)
    wrong = {"run": ref._replace(run=7), "digest": ref._replace(digest=DIGEST)}.get(what, ref)
    before = client.inspect_job(job_id)
    send(OPEN_JOB, [*wrong])
    send(VISIT, [*wrong, "nobody" if what == "agent" else "in"])
    send(DRAIN, [*wrong, "nowhere" if what == "pool" else "light"])
    assert completed(client, line(3))["count"] == 1
    assert client.inspect_job(job_id) == before
    finish(client, job_id)


def test_a_task_with_another_jobs_bundle_claims_no_agent(client, send, outside):
    """The digest is that of an existing bundle, but not of this job's: its agents are left to their own tasks."""
    other = job_ref(client, ended(client, line(4))["job_id"])
    graph = manifest([router("in"), executor("far", "true", pool="nobody_serves_this")], [("in", "far", "go")])
    job_id = client.run_manifest(graph)
    wait_until(lambda: snapshots(client, job_id)["far"]["status"] == "queued")
    wrong = job_ref(client, job_id)._replace(digest=other.digest)
    send(OPEN_JOB, [*wrong])
    send(VISIT, [*wrong, "r1"])
    send(DRAIN, [*wrong, "nobody_serves_this"])
    completed(client, line(3))  # the queue is in order: the three have been
    found = snapshots(client, job_id)["far"]
    finish(client, job_id)
    assert (found["status"], found["assigned_node"]) == ("queued", None)


def test_garbled_bytes_in_a_queue_never_end_a_worker(client, server, send):
    """Bytes that are not a message, and messages without content."""
    name = queue(client.settings.redis_namespace, "light")
    for raw in ("{}", '{"body": "", "headers": {}, "properties": {}}'):
        server.client.lpush(name, raw)
