"""What a sweeper re-announces and ends, and when it assumes an outage of the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import ASKED
from mirrorneuron.store.protocol import new_token
from tests.support.graphs import executor, job_ref, line, single
from tests.support.store import Jobs
from tests.support.waiting import wait_until
from workers.recovery import sweeper
from workers.recovery.queue_depth import QueueDepth
from workers.recovery.reminders import Reminders
from workers.recovery.sweeper import Sweeper

JOBS = 3


@pytest.fixture
def impatient(store: Store, monkeypatch: pytest.MonkeyPatch) -> Sweeper:
    """A sweeper that takes an announcement for lost if it was not picked up by the next sweep."""
    monkeypatch.setattr(sweeper, "Reminders", partial(Reminders, first_wait_s=0))
    return sweeper_of(store)


def sweeper_of(store: Store) -> Sweeper:
    return Sweeper(store, make_app(store.settings), lambda digest: store.plan(digest)[0])


def sweep_often(one: Sweeper) -> None:
    for _ in range(5):
        assert one.tick()


def test_a_long_queue_gets_no_duplicate_tasks(store: Store, impatient: Sweeper) -> None:
    """The jobs are not opened, but their tasks are still in the queue, so no more are added."""
    client = Client(store.settings)
    for _ in range(JOBS):
        client.run_manifest(line(3))
    sweep_often(impatient)
    assert store.client.llen(queue(store.settings.redis_namespace, LIGHT)) == JOBS


def test_tasks_that_the_queue_has_lost_are_re_announced_once(store: Store, impatient: Sweeper) -> None:
    client = Client(store.settings)
    for _ in range(JOBS):
        client.run_manifest(line(3))
    light = queue(store.settings.redis_namespace, LIGHT)
    store.client.delete(light)
    sweep_often(impatient)
    assert store.client.llen(light) == JOBS


def test_the_queues_of_pools_are_limited_separately(store: Store, impatient: Sweeper) -> None:
    """Tasks for the light worker do not limit those for a pool; a queue gets at most one for each job that waits."""
    client = Client(store.settings)
    opened = job_ref(client, client.run_manifest(single("true")))
    for _ in range(JOBS):
        client.run_manifest(line(3))
    store.scripts.claim(opened, new_token(), [(LIGHT, 1)], opening=True)
    for _ in range(3):
        sweep_often(impatient)
    assert store.client.llen(queue(store.settings.redis_namespace, "default")) == 1


def test_a_broker_that_reports_no_queue_length_still_gets_re_announcements(
    store: Store, impatient: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise NotImplementedError("no passive declaration")

    monkeypatch.setattr(QueueDepth, "of", refuse)
    Client(store.settings).run_manifest(line(3))
    light = queue(store.settings.redis_namespace, LIGHT)
    store.client.delete(light)
    assert impatient.tick()
    assert store.client.llen(light) == 1


def test_the_length_of_a_queue_is_read_again_in_each_sweep(store: Store, impatient: Sweeper) -> None:
    """A task that was re-announced and lost is re-announced once more."""
    client, light = Client(store.settings), queue(store.settings.redis_namespace, LIGHT)
    client.run_manifest(line(3))
    for _ in range(2):
        store.client.delete(light)
        sweep_often(impatient)
        assert store.client.llen(light) == 1


def test_an_idle_job_that_was_not_settled_ends_as_its_policy_says(store: Store, jobs: Jobs) -> None:
    """The worker that saw it idle may have died before settling it."""
    for policy in ("complete", "fail", "wait"):
        jobs.submit(policy, initial_inputs={"join": [1]}, entrypoints=["join"], policies={"on_idle": policy})
        jobs.open(policy)
    assert sweeper_of(store).tick()
    assert {job["job_id"]: job["status"] for job in store.jobs()} == {
        "complete": "completed",
        "fail": "failed",
        "wait": "running",
    }
    assert store.known_job("complete")["result"] == {"agent_id": None, "output": {"join": 1}}
    assert store.known_job("wait")["idle_since"] is not None
    assert store.index.live() == ["wait"], "the same sweep removes the ended jobs from the live index"
    assert [
        name for name in store.client.scan_iter(f"{store.keys.job('complete')}*") if store.client.ttl(name) < 0
    ] == []


def test_the_rest_of_a_batch_in_an_idle_job_is_announced(store: Store, jobs: Jobs) -> None:
    batch = executor("batch", "true", "batch", batch_size=2)
    jobs.submit("j", nodes=[batch], edges=[], entrypoints=["batch"], initial_inputs={"batch": [1]})
    jobs.open("j")
    assert sweeper_of(store).tick()
    assert store.client.llen(queue(store.settings.redis_namespace, "default")) == 1
    assert store.known_job("j")["status"] == "running"


def test_a_job_that_the_sweeper_fails_is_removed_from_the_live_index_at_once(store: Store, jobs: Jobs) -> None:
    jobs.submit("late", policies={"job_timeout_ms": 1})
    wait_until(lambda: sweeper_of(store).tick() and store.known_job("late")["status"] == "failed")
    assert store.index.live() == []


def test_a_poison_message_fails_the_job_with_its_id_and_losses(make_store: Callable[..., Store]) -> None:
    now = [time.time_ns() // 1_000_000]
    store = make_store(clock=lambda: now[0])
    jobs = Jobs(store)
    jobs.submit("j", initial_inputs={"x": {"message_id": "bad"}}, policies={"max_agent_restart_attempts": 1})
    jobs.open("j")
    store.scripts.claim(jobs.ref("j"), "t", (("default", 1),), agents=["x"])
    one = sweeper_of(store)
    assert one.tick()
    assert store.known_job("j")["status"] == "running"
    for _ in range(3):  # a longer time between two sweeps would be an outage
        now[0] += store.settings.claim_lease_ms // 3
        assert one.tick()
    assert store.known_job("j")["result"] == {
        "agent_id": "x",
        "error": "the worker died while it ran this message (losses: 1, limit: policies.max_agent_restart_attempts)",
        "details": {"losses": 1, "message_id": "bad"},
    }
    assert store.index.live() == []


def test_a_sweep_ends_when_its_lease_is_lost(store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took so long that another worker has taken the lease; the remaining jobs are left to that worker."""
    monkeypatch.setattr(sweeper, "LOOKS", 1)
    monkeypatch.setattr(sweeper, "JOBS_A_LEASE", 1)
    for name in "abcde":
        jobs.submit(name)
    swept: list[str] = []
    sweep = store.scripts.sweep_all

    def slow(job_ids: list[str], **options: Any) -> Any:
        swept.extend(job_ids)
        store.client.set(store.keys.sweeper, "another")
        return sweep(job_ids, **options)

    monkeypatch.setattr(store.scripts, "sweep_all", slow)
    sweeper_of(store).tick()
    assert len(swept) == 1


def test_live_jobs_have_their_bundles_renewed_every_few_hours(
    store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(sweeper, "time", SimpleNamespace(monotonic=lambda: now[0]))
    jobs.submit("j")
    one, name = sweeper_of(store), store.keys.manifest(jobs.ref("j").digest)
    lasts = []
    for seconds in (0, sweeper.RENEWED_S - 1, 1):
        now[0] += seconds
        store.client.expire(name, 60)
        assert one.tick()
        lasts.append(store.client.ttl(name) > 60)
    assert lasts == [True, False, True]


@pytest.mark.parametrize("holder", [None, "another"])
def test_a_sweeper_that_stops_releases_its_lease(store: Store, holder: str | None) -> None:
    """So that another worker need not wait for it. The lease of another worker is not released."""
    one, key = sweeper_of(store), store.keys.sweeper
    thread = threading.Thread(target=one.run)
    thread.start()
    wait_until(lambda: store.client.get(key))
    if holder:
        store.client.set(key, holder)
    one.stop()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert store.client.get(key) == (holder.encode() if holder else None)


def test_a_sweep_that_loses_the_store_raises(store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not count as the fault of one job: the next sweep has to know that claims could not be renewed."""
    jobs.submit("j")

    def cut(*_: Any, **__: Any) -> None:
        raise ConnectionError("cut")

    monkeypatch.setattr(store.scripts, "sweep_all", cut)
    with pytest.raises(ConnectionError):
        sweeper_of(store).tick()


def test_claims_get_a_fresh_lease_after_an_outage(make_store: Callable[..., Store]) -> None:
    """The last sweep of the fleet is longer ago than a lease. The next sweep frees what was not renewed."""
    now = [time.time_ns() // 1_000_000]
    store = make_store(clock=lambda: now[0])
    jobs, lease_ms = Jobs(store), store.settings.claim_lease_ms
    jobs.submit("j", initial_inputs={"x": [1]}, entrypoints=["x"])
    jobs.open("j")
    store.scripts.claim(jobs.ref("j"), "t", (("default", 1),), agents=["x"])
    assert sweeper_of(store).tick()
    store.client.delete(store.keys.sweeper)
    now[0] += lease_ms + 1
    one = sweeper_of(store)
    assert one.tick()
    assert store.client.zscore(store.keys.claims("j"), "x") == now[0] + lease_ms
    for _ in range(3):
        now[0] += lease_ms // 3
        assert one.tick()
    assert store.client.zscore(store.keys.claims("j"), "x") is None


def test_after_the_clock_was_set_back_delays_are_not_longer(make_store: Callable[..., Store]) -> None:
    now = [time.time_ns() // 1_000_000]
    store = make_store(clock=lambda: now[0])
    jobs = Jobs(store)
    jobs.submit("j", initial_inputs={"x": [1]}, entrypoints=["x"])
    jobs.open("j")
    one = sweeper_of(store)
    assert one.tick()
    now[0] -= 600_000
    assert store.client.zscore(store.keys.ready("j", "default"), "x") > now[0]
    assert one.tick()
    assert store.client.zscore(store.keys.ready("j", "default"), "x") == now[0]


def test_the_lease_of_a_sweeper_does_not_outlast_a_clock_that_was_set_back(store: Store) -> None:
    """Its holder may be dead. The time to live of a key is an absolute time in the server."""
    store.client.set(store.keys.sweeper, "dead", px=600_000)
    assert not sweeper_of(store).tick()
    assert store.client.pttl(store.keys.sweeper) <= sweeper.LEASE_MS


def rests(one: Sweeper) -> bool:
    return one._may_rest()


def test_a_sweeper_rests_while_no_job_is_due_and_its_lease_is_fresh(make_store: Callable[..., Store]) -> None:
    now = [time.time_ns() // 1_000_000]
    store = make_store(clock=lambda: now[0])
    one = sweeper_of(store)
    assert not rests(one), "it does not have the lease yet"
    assert one.tick()
    assert rests(one)
    Jobs(store).submit("j")
    assert rests(one), "the producer announces the job itself"
    now[0] += 5_000
    assert not rests(one)
    assert one.tick()
    assert rests(one)
    store.client.zadd(store.keys.due, {ASKED + "j": 0})
    assert not rests(one)


def test_a_sweeper_that_rests_renews_its_lease_in_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(sweeper, "time", SimpleNamespace(monotonic=lambda: now[0]))
    one = sweeper_of(store)
    assert one.tick()
    now[0] += sweeper.LEASE_MS / 1_000 - sweeper.INTERVAL_S
    assert not rests(one)


def test_a_sweeper_without_the_lease_rests_until_it_is_free(store: Store) -> None:
    holder, other = sweeper_of(store), sweeper_of(store)
    assert holder.tick()
    assert not other.tick()
    assert rests(other)
    store.client.delete(store.keys.sweeper)
    assert not rests(other)
    assert other.tick()


def test_a_sweeper_without_the_lease_notices_an_outage_between_its_probes(
    make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that held the lease died in the outage. The claims of the other workers get a fresh lease."""
    now = [time.time_ns() // 1_000_000]
    store = make_store(clock=lambda: now[0])
    monkeypatch.setattr(sweeper, "time", SimpleNamespace(monotonic=lambda: now[0] / 1_000))
    jobs = Jobs(store)
    jobs.submit("j", initial_inputs={"x": [1]}, entrypoints=["x"])
    jobs.open("j")
    store.scripts.claim(jobs.ref("j"), "t", (("default", 1),), agents=["x"])
    holder, other = sweeper_of(store), sweeper_of(store)
    assert holder.tick()
    assert not other.tick()
    assert rests(other)
    now[0] += store.settings.claim_lease_ms
    assert rests(other), "the first answer after the outage"
    store.client.delete(store.keys.sweeper)
    now[0] += 1_000
    assert other.tick()
    assert store.activity.claimed_agents("j") == ["x"]
