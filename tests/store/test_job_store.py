"""The job store: creating jobs, their index entries, and reading their records."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mirrorneuron.errors import JobNotFound
from mirrorneuron.job import AgentSnapshot, JobStatus, iso
from mirrorneuron.message import encode
from mirrorneuron.pools import queue
from mirrorneuron.store.bundle_store import FOR_EVER_SECONDS
from mirrorneuron.store.job_creation import JobDraft
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.node_registry import FORGOTTEN_S
from mirrorneuron.store.protocol import DeadLetterDraft, JobEnd, ReplyCode, Step, new_token, untouched
from tests.support.store import NODE, Jobs, packed, static
from tests.support.waiting import wait_until

Stores = Callable[..., Store]


def keys(store: Store) -> dict[str, int]:
    """Return every key of the namespace, without its prefix, with its TTL in seconds (-1: none)."""
    names = store.client.scan_iter(f"*{store.settings.redis_namespace}:*", count=10_000)
    return {name.decode().removeprefix(f"{store.settings.redis_namespace}:"): store.client.ttl(name) for name in names}


def members(store: Store, index: str) -> set[bytes]:
    if index == store.keys.live:
        return set(store.client.smembers(index))
    return set(store.client.zrange(index, 0, -1))


def test_a_new_job_is_pending_and_indexed_and_has_its_initial_mail(store: Store, jobs: Jobs) -> None:
    assert jobs.submit("j", initial_inputs={"a": [{"n": 1}, 2], "x": {"m": 3}}) == (
        ReplyCode.CREATED,
        JobStatus.PENDING,
    )
    assert members(store, store.keys.jobs) == members(store, store.keys.live) == {b"j"}
    assert [store.client.llen(store.keys.mail("j", name)) for name in ("a", "x", "join")] == [2, 1, 0]
    assert set(store.client.zrange(store.keys.ready("j", "default"), 0, -1)) == {b"x"}


def test_a_job_map_has_the_fields_of_the_contract(make_store: Stores) -> None:
    store = make_store(clock=lambda: 1_700_000_000_123)
    Jobs(store).submit("j")
    job = store.read_job("j")
    assert job is not None
    assert (job["job_id"], job["status"], job["run"], job["result"]) == ("j", "pending", 1, None)
    assert job["submitted_at"] == job["updated_at"] == iso(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert (job["started_at"], job["finished_at"], job["idle_since"]) == (None, None, None)
    assert store.read_job("no-job") is None


def test_creating_a_job_is_idempotent(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    before = store.client.lrange(store.keys.mail("j", "a"), 0, -1)
    assert jobs.submit("j") == (ReplyCode.EXISTS, JobStatus.PENDING)
    assert store.client.lrange(store.keys.mail("j", "a"), 0, -1) == before
    assert len(store.events("j")) == 2


def test_the_same_id_with_another_bundle_is_a_conflict(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    assert jobs.submit("j", graph_id="other") == (ReplyCode.CONFLICT, JobStatus.PENDING)
    assert store.read_job("j")["graph_id"] == "g"


def test_a_bundle_that_the_server_has_lost_is_stored_again_with_the_job(store: Store) -> None:
    bundle, plan = packed({})
    assert store.creation.create(JobDraft("j", plan, bundle, static("j", bundle), {}, "")).word is ReplyCode.CREATED
    assert store.plan(bundle.digest)[0].nodes.keys() == plan.nodes.keys()


def test_a_job_is_created_although_the_server_forgets_its_scripts_before_each_command(
    make_store: Stores, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted server has no scripts, nor has another one, so the second attempt sends the source of the script."""
    other, pipeline = make_store(), jobs.store.client.pipeline

    def forgotten_before(*args: Any, **options: Any) -> Any:
        other.client.script_flush()
        return pipeline(*args, **options)

    monkeypatch.setattr(jobs.store.client, "pipeline", forgotten_before)
    assert jobs.submit("j") == (ReplyCode.CREATED, JobStatus.PENDING)


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_creating_an_ended_job_again_does_not_make_it_live(store: Store, jobs: Jobs, status: JobStatus) -> None:
    jobs.submit("j")
    jobs.end("j", status)
    store.index.mark_ended(["j"])
    assert jobs.submit("j") == (ReplyCode.EXISTS, status)
    assert members(store, store.keys.live) == set()


def test_a_conflict_with_an_ended_job_does_not_make_it_live(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.end("j")
    store.index.mark_ended(["j"])
    assert jobs.submit("j", graph_id="other") == (ReplyCode.CONFLICT, JobStatus.COMPLETED)
    assert members(store, store.keys.live) == set()


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_every_key_of_an_ended_job_has_a_ttl(store: Store, jobs: Jobs, status: JobStatus) -> None:
    jobs.submit("j", initial_inputs={"a": [1, 2], "x": 3, "join": 4})
    jobs.open("j")
    jobs.end("j", status)
    store.index.mark_ended(["j"])
    assert {name for name, ttl in keys(store).items() if ttl < 0} <= {
        "jobs",
        "jobs:ended",
        "jobs:due",
        f"jobs:{status}",
    }
    own = {name: ttl for name, ttl in keys(store).items() if name.startswith("job:")}
    assert own
    assert all(0 < ttl <= 3_600 for ttl in own.values())


def test_without_retention_an_ended_job_is_kept_for_ever(make_store: Stores) -> None:
    store = make_store(retention_seconds=0)
    jobs = Jobs(store)
    jobs.submit("j")
    jobs.end("j")
    store.index.mark_ended(["j"])
    lasting = {name: ttl for name, ttl in keys(store).items() if ":op:" not in name}
    assert {ttl for name, ttl in lasting.items() if not name.startswith("manifest:")} == {-1}
    assert min(ttl for ttl in lasting.values() if ttl != -1) > FOR_EVER_SECONDS - 60
    assert members(store, store.keys.ended) == set()


def test_mark_ended_moves_jobs_from_the_live_to_the_ended_index_and_is_idempotent(store: Store, jobs: Jobs) -> None:
    for name in ("j", "k", "l"):
        jobs.submit(name)
    jobs.end("j")
    jobs.end("k")
    for _ in range(2):
        store.index.mark_ended(["j", "k"])
    assert members(store, store.keys.live) == {b"l"}
    assert members(store, store.keys.ended) == {b"j", b"k"}
    assert members(store, store.keys.jobs) == {b"j", b"k", b"l"}


def test_jobs_are_listed_newest_first_and_optionally_only_live_ones(
    make_store: Stores, store: Store, jobs: Jobs
) -> None:
    for at, name in enumerate(("first", "second", "third")):
        Jobs(make_store(clock=lambda at=at: 1_700_000_000_000 + at)).submit(name)
    jobs.end("second")
    store.index.mark_ended(["second"])
    assert [job["job_id"] for job in store.jobs()] == ["third", "second", "first"]
    assert [job["job_id"] for job in store.jobs(live_only=True)] == ["third", "first"]


def test_more_jobs_than_a_page_are_all_listed_once(store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirrorneuron.store.status_index.PAGE", 2)
    for n in range(5):
        jobs.submit(f"j{n}")
    assert sorted(job["job_id"] for job in store.jobs()) == [f"j{n}" for n in range(5)]


def test_a_job_that_is_only_in_the_index_is_not_listed(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    store.client.zadd(store.keys.jobs, {"ghost": 1})
    assert [job["job_id"] for job in store.jobs()] == ["j"]


def test_there_is_a_snapshot_of_every_agent_in_manifest_order(store: Store, jobs: Jobs) -> None:
    jobs.submit("j", initial_inputs={"a": 1, "join": 2})
    jobs.open("j")
    store.scripts.claim(jobs.ref("j"), "t", (("light", 1),))
    found = store.agents(store.read_job("j"))
    assert [(a["agent_id"], a["status"], a["mailbox_depth"]) for a in found] == [
        ("a", "busy", 1),
        ("x", "ready", 0),
        ("join", "ready", 1),
    ]
    assert (found[0]["assigned_node"], found[1]["assigned_node"]) == ("node-1", None)
    assert found[0]["last_heartbeat_at"] is not None


def test_a_snapshot_is_one_transaction(store: Store, jobs: Jobs, make_store: Stores) -> None:
    """A running agent has a claim, and a queued one has none, although another thread claims and commits meanwhile."""
    jobs.submit("j", initial_inputs={"x": [1]})
    jobs.open("j")
    job, other, over = jobs.ref("j"), make_store(), threading.Event()

    def work() -> None:
        while not over.is_set():
            held = other.scripts.claim(job, new_token(), (("default", 1),))
            other.scripts.commit(job, held.token, [untouched(claim) for claim in held.claims], new_token())

    record = store.read_job("j")
    assert record is not None
    seen: set[tuple[str, bool]] = set()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            wait_until(lambda: seen.add(claimed(store.agents(record)[1])) or len(seen) > 1, every=0)
            for _ in range(300):
                seen.add(claimed(store.agents(record)[1]))
        finally:
            over.set()
        working.result()
    assert seen == {("running", True), ("queued", False)}


def claimed(agent: AgentSnapshot) -> tuple[str, bool]:
    return agent["status"], agent["last_heartbeat_at"] is not None


@pytest.mark.parametrize("state", [28, None, [], "text", {"n": 1}])
def test_an_agents_state_may_be_any_json(store: Store, jobs: Jobs, state: Any) -> None:
    """An executor prints its state as `next_state`."""
    jobs.submit("j", initial_inputs={"x": [1]})
    jobs.open("j")
    store.scripts.claim(jobs.ref("j"), "t", (("default", 1),), agents=["x"])
    store.scripts.commit(jobs.ref("j"), "t", [Step("x", 1, 1, encode({"user": state}))], new_token())
    assert store.agents(store.read_job("j"))[1]["current_state"] == state


def test_a_snapshot_shows_the_state_of_the_last_commit(store: Store, jobs: Jobs) -> None:
    jobs.submit("j", initial_inputs={"x": [1, 2]})
    jobs.open("j")
    job = jobs.ref("j")
    store.scripts.claim(job, "t", (("default", 1),), agents=["x"])
    step = Step("x", 1, 1, b'{"user":{"sum":3},"unrouted":1}', attempts=0, error="")
    store.scripts.commit(job, "t", [step], new_token())
    found = store.agents(store.read_job("j"))[1]
    assert (found["current_state"], found["processed_messages"], found["status"]) == ({"sum": 3}, 1, "queued")
    assert (found["metadata"]["unrouted"], found["metadata"]["outbound_edges"]) == (1, 1)


def test_events_are_read_from_the_start_or_after_an_event_or_the_newest_ones(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.open("j")
    jobs.end("j")
    every = store.events("j")
    assert [event["type"] for event in every] == [
        "job_pending",
        "job_validated",
        "job_scheduled",
        "job_running",
        "job_completed",
    ]
    assert store.events("j", after=every[1]["id"]) == every[2:]
    assert store.events("j", limit=2) == every[-2:]
    assert store.events("j", after=every[0]["id"], limit=2) == every[1:3]
    assert store.follow("j", every[3]["id"], 10) == every[4:]


def test_a_limit_of_0_returns_no_events(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    assert store.events("j", limit=0) == []


def test_the_last_body_of_an_agent_is_the_last_emitted_else_the_last_received(store: Store, jobs: Jobs) -> None:
    jobs.submit("j", initial_inputs={"x": {"n": 1}, "join": [1, 2]})
    jobs.open("j")
    job = jobs.ref("j")
    (held,) = store.scripts.claim(job, "t", (("default", 1),), agents=["x"]).claims
    store.scripts.commit(job, "t", [Step("x", 1, 1, last=held.mail[0], output=b"[9]")], new_token())
    (held,) = store.scripts.claim(job, "u", (("light", 1),), agents=["join"]).claims
    store.scripts.commit(job, "u", [Step("join", 2, 2, last=held.mail[1])], new_token())
    assert store.last_bodies("j", ["x", "join", "a", "nobody"]) == {"x": [9], "join": 2, "a": {}}, "`a` has mail"


def test_a_message_in_the_mailbox_is_newer_than_a_consumed_one(store: Store, jobs: Jobs) -> None:
    jobs.submit("j", initial_inputs={"x": [1, 2]})
    jobs.open("j")
    (held,) = store.scripts.claim(jobs.ref("j"), "t", (("default", 1),), agents=["x"]).claims
    store.scripts.commit(jobs.ref("j"), "t", [Step("x", 1, 1, last=held.mail[0])], new_token())
    assert store.last_bodies("j", ["x"]) == {"x": 2}


def test_reading_the_agents_of_a_deleted_job_raises_job_not_found(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    job = store.known_job("j")
    jobs.end("j")
    store.delete("j", ["a", "x", "join"])
    with pytest.raises(JobNotFound, match="no job 'j'"):
        store.agents(job)


def test_a_worker_without_heartbeats_is_not_listed_and_later_removed_from_the_index(
    store: Store, make_store: Callable[..., Store]
) -> None:
    store.registry.register(NODE, 60)
    assert 0 < store.client.ttl(store.keys.node("n1")) <= 60
    store.client.delete(store.keys.node("n1"))  # it has expired
    store.client.zadd(store.keys.nodes, {"n1": store.now_ms() - 1000 * FORGOTTEN_S - 1})
    assert store.registry.nodes() == []
    store.registry.register({**NODE, "name": "n2"}, 60)
    assert members(store, store.keys.nodes) == {b"n1", b"n2"}, "each worker removes others now and then"
    make_store().registry.register({**NODE, "name": "n2"}, 60)
    assert members(store, store.keys.nodes) == {b"n2"}
    store.registry.unregister("n2")
    assert members(store, store.keys.nodes) == set()
    assert store.client.exists(store.keys.node("n2")) == 0


def test_queue_lengths_are_known_only_if_the_broker_is_the_store_server(make_store: Stores) -> None:
    here, elsewhere = make_store(), make_store(broker_url="amqp://elsewhere")
    here.registry.register(NODE, 60)
    here.client.rpush(queue(here.keys.ns, "light"), "task")
    assert [store.registry.nodes()[0]["pools"]["light"]["queued"] for store in (here, elsewhere)] == [1, None]


def test_a_registered_worker_is_listed_until_it_unregisters(store: Store) -> None:
    store.registry.register({**NODE, "name": "n2"}, 60)
    store.registry.register(NODE, 60)
    assert [found["name"] for found in store.registry.nodes()] == ["n1", "n2"]
    assert store.registry.nodes()[0]["last_heartbeat_at"].endswith("Z")
    store.registry.unregister("n1")
    assert [found["name"] for found in store.registry.nodes()] == ["n2"]


def test_the_number_of_kept_events_is_limited_approximately(make_store: Stores) -> None:
    """The server trims a stream by whole blocks of about a hundred events."""
    store = make_store(events_max=1)
    jobs = Jobs(store)
    jobs.submit("j", initial_inputs={"x": [1]})
    jobs.open("j")
    store.scripts.claim(jobs.ref("j"), "t", (("default", 1),), agents=["x"])
    step = Step("x", 1, 1, events=[("told", b"%d" % n) for n in range(900)])
    store.scripts.commit(jobs.ref("j"), "t", [step], new_token())
    assert len(store.events("j")) < 450
    assert store.events("j", limit=1)[0]["payload"] == 899


@pytest.mark.parametrize("lost", [False, True])
def test_deleting_a_job_removes_all_its_keys(store: Store, jobs: Jobs, lost: bool) -> None:
    """At once, and also if its bundle, which lists its agents, is lost."""
    jobs.submit("other")
    jobs.submit("j", initial_inputs={"a": [1], "x": [2, 3]})
    before = {name for name in keys(store) if "{j}" not in name}
    jobs.open("j")
    job = jobs.ref("j")
    store.scripts.log("j", [("x", "stdout", "printed")], 1_000)
    store.scripts.deliver("j", "join", "id", b"{}")
    store.scripts.claim(job, "t", (("default", 1),), agents=["x"])
    step = Step("x", 1, 1, dead=[DeadLetterDraft("m", "nobody", "no agent", b"{}")])
    store.scripts.commit(job, "t", [step], new_token())
    jobs.end("j")
    store.index.mark_ended(["j"])
    found = {name.split(":")[2] for name in keys(store) if name.startswith("job:{j}:")}
    assert found == {"agent", "mail", "events", "delivered", "dead", "logs", "op"}
    assert store.delete("other", ["a", "x", "join"]) is False, "it is live"
    assert store.delete("j", store.found_agents("j") if lost else ["a", "x", "join"]) is True
    left = {name for name in keys(store) if not name.startswith("job:{j}:op:")}  # these go within a minute
    assert left == before
    assert members(store, store.keys.jobs) == members(store, store.keys.live) == {b"other"}
    assert members(store, store.keys.ended) == set()
    assert store.delete("j", ["a", "x", "join"]) is False


def test_the_agents_of_a_lost_bundle_are_those_of_the_first_submission(store: Store, jobs: Jobs) -> None:
    """They are in the record of the job, so that no process needs SCAN, which reads every key of the server."""
    jobs.submit("j")
    store.client.hset(store.keys.job("j"), "agents", '["kept"]')
    jobs.submit("j")
    assert store.found_agents("j") == ["kept"]
    assert store.found_agents("none") == []
    assert "agents" not in store.known_job("j")


def test_the_end_is_the_last_update_of_a_job_and_its_event_has_the_summary(make_store: Stores) -> None:
    now = [1_700_000_000_000]
    store = make_store(clock=lambda: now[0])
    jobs = Jobs(store)
    jobs.submit("j")
    jobs.open("j")
    now[0] += 5
    end = JobEnd(JobStatus.CANCELLED, b'{"reason":"r"}', b'{"by":"ann"}')
    assert store.scripts.finish(jobs.ref("j"), end, ["a", "x", "join"]) is ReplyCode.SETTLED
    job = store.known_job("j")
    assert job["updated_at"] == job["finished_at"] == iso(now[0])
    assert store.events("j")[-1]["payload"] == {"by": "ann"}
