"""The reads that diagnoses, audits and the sweeper use: claims, ready agents, slots, keys, the sweeper's lease."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorneuron.errors import JobNotFound, RecordDamaged
from mirrorneuron.store.activity import AgentTime
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import Step
from tests.support.store import Jobs

POOLS = ("light", "default")


def claim_one_of_two(store: Store, jobs: Jobs) -> None:
    """Open job `j`, in which agent `x` is claimed and agent `a` is ready."""
    jobs.submit("j", initial_inputs={"a": [1], "x": [2]})
    jobs.open("j")
    store.scripts.claim(jobs.ref("j"), "t", (("default", 1),), agents=["x"])


def test_a_moment_has_the_claims_and_the_first_ready_agent_of_each_pool(store: Store, jobs: Jobs) -> None:
    claim_one_of_two(store, jobs)
    found = store.activity.moment("j", POOLS, 50)
    lease_ends = int(store.client.zscore(store.keys.claims("j"), "x"))
    assert (found.job["status"], found.claims, found.claim_count) == ("running", [AgentTime("x", lease_ends)], 1)
    assert found.now_ms < lease_ends <= found.now_ms + store.settings.claim_lease_ms
    assert {pool: first.agent_id for pool, first in found.ready.items()} == {"light": "a"}


def test_a_moment_counts_more_claims_than_it_lists(store: Store, jobs: Jobs) -> None:
    claim_one_of_two(store, jobs)
    store.scripts.claim(jobs.ref("j"), "u", (("light", 1),))
    found = store.activity.moment("j", POOLS, 1)
    assert (len(found.claims), found.claim_count) == (1, 2)


def test_a_moment_is_read_in_one_transaction(store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_one_of_two(store, jobs)
    make, transactions = store.client.pipeline, []

    def pipeline(*, transaction: bool) -> Any:
        transactions.append(transaction)
        return make(transaction=transaction)

    monkeypatch.setattr(store.client, "pipeline", pipeline)
    moment = store.activity.moment("j", POOLS, 50)
    assert transactions == [True]
    store.activity.details(moment)
    assert transactions == [True, False]


def test_the_moment_of_a_missing_job_raises_job_not_found(store: Store) -> None:
    with pytest.raises(JobNotFound):
        store.activity.moment("j", POOLS, 50)


def test_details_are_those_of_the_claimed_and_the_first_ready_agents(store: Store, jobs: Jobs) -> None:
    claim_one_of_two(store, jobs)
    store.scripts.commit(jobs.ref("j"), "t", [Step("x", attempts=2, error="exit 3")], "u", (("default", 1),))
    moment = store.activity.moment("j", POOLS, 50)
    (claimed,), ready = store.activity.details(moment)
    assert (claimed.node, claimed.attempts, claimed.error) == ("node-1", 2, "exit 3")
    assert claimed.claimed_at_ms is not None
    details, count = ready["light"]
    assert (details.claimed_at_ms, details.attempts, details.error, count) == (None, 0, "", 1)


def test_a_damaged_agent_in_a_moment_raises_record_damaged(store: Store, jobs: Jobs) -> None:
    claim_one_of_two(store, jobs)
    store.client.hset(store.keys.agent("j", "x"), "attempts", "many")
    with pytest.raises(RecordDamaged, match=r"^an agent of job 'j' cannot be read: "):
        store.activity.details(store.activity.moment("j", POOLS, 50))


def test_slot_holders_are_the_claimed_agents_of_the_pools(store: Store, jobs: Jobs) -> None:
    claim_one_of_two(store, jobs)
    store.scripts.claim(jobs.ref("j"), "u", (("light", 1),))
    found = store.activity.slot_holders(["j"], ["default", "gpu"], max_claims=50, max_agents=500)
    assert found == {"default": ["j/x"], "gpu": []}
    assert store.activity.slot_holders([], ["gpu"], max_claims=50, max_agents=500) == {"gpu": []}


def test_claimed_agents_have_a_token(store: Store, jobs: Jobs) -> None:
    claim_one_of_two(store, jobs)
    assert store.activity.claimed_agents("j") == ["x"]
    assert [store.activity.has_token("j", agent) for agent in ("x", "a")] == [True, False]


def test_an_audit_reads_every_key_of_the_namespace_and_its_ttl(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    names = list(store.audit.names())
    assert {store.keys.job("j"), store.keys.jobs, store.keys.live} <= set(names)
    found = dict(store.audit.times_to_live(names))
    assert found[store.keys.jobs] == -1
    assert found[store.keys.manifest(jobs.ref("j").digest)] > 0


def test_a_sweeper_releases_only_its_own_lease(store: Store) -> None:
    store.sweep_lease.take("one", 600_000)
    store.sweep_lease.release("two")
    assert store.client.get(store.keys.sweeper) == b"one"
    store.sweep_lease.release("one")
    assert store.client.exists(store.keys.sweeper) == 0


def test_the_time_of_the_last_sweep_is_known_after_the_first_one(store: Store) -> None:
    assert store.sweep_lease.last_sweep_ms() is None
    turn = store.sweep_lease.take("one", 60_000)
    assert store.sweep_lease.last_sweep_ms() == turn.now_ms


def test_a_server_that_accepts_writes_has_no_refusal(store: Store) -> None:
    assert store.server.refusal() == ""
    assert "redis_version" in store.server.info()
    assert store.server.saves() is not None


def test_a_subscription_to_ends_reports_a_job_that_ends_while_an_agent_is_claimed(store: Store, jobs: Jobs) -> None:
    claim_one_of_two(store, jobs)
    with store.job_ends() as ends:
        assert ends.subscribed is False
        ends.subscribe()
        assert ends.wait(10) is False, "the confirmation of the subscription"
        jobs.end("j")
        assert ends.wait(10) is True
        ends.reset()
        assert ends.subscribed is False
