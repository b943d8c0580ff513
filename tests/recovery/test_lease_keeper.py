"""The lease keeper renews claims while their runs continue, whatever else fails."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.chaos.proxy import Proxy
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef, ReplyCode, new_token
from tests.support.graphs import job_ref, single
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.lifecycle.run_handle import RunHandle
from workers.lifecycle.shutdown import REASON, Stop
from workers.recovery.lease_keeper import LeaseKeeper


def lease_end(store: Store, job: JobRef) -> float:
    end = store.client.zscore(store.keys.claims(job.job_id), "work")
    assert end is not None
    return float(end)


def test_claims_are_renewed_although_the_subscription_to_ended_jobs_fails(own_server: ValkeyServer, caplog) -> None:
    """The server refuses the subscription, which is not a connection error, and accepts it later."""
    client = Client(Settings(redis_url=own_server.url))
    store = Store(client.settings)
    job = job_ref(client, client.run_manifest(single("true")))
    token = new_token()
    store.scripts.claim(job, token, (("default", 1),), opening=True)
    own_server.client.execute_command("ACL", "SETUSER", "default", "resetchannels")
    with LeaseKeeper(store, 0.05).holding(job, token, ["work"], RunHandle()):
        wait_until(lambda: caplog.text.count("cannot listen for ended jobs") >= 2)
        assert "NoPermissionError" in caplog.text
        seen = lease_end(store, job)
        wait_until(lambda: lease_end(store, job) > seen)
        own_server.client.execute_command("ACL", "SETUSER", "default", "allchannels")
        wait_until(lambda: own_server.client.pubsub_numsub(store.keys.ends)[0][1] == 1)


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    """The store of a namespace without workers."""
    made = Store(Settings(redis_url=redis_url, redis_namespace=f"keeper-{secrets.token_hex(4)}"))
    yield made
    Client(made.settings).cleanup_jobs(all=True)


def claimed(store: Store) -> tuple[JobRef, str]:
    """A new job whose agent `work` is claimed, and the token of the claim."""
    client = Client(store.settings)
    job, token = job_ref(client, client.run_manifest(single("true"))), new_token()
    store.scripts.claim(job, token, (("default", 1),), opening=True)
    return job, token


@pytest.mark.parametrize("interval_s", [600, 10**9 / 3])
def test_the_end_of_a_job_ends_its_run_without_waiting_for_a_renewal(store: Store, interval_s: float, caplog) -> None:
    """A cancelled job's command is ended at once, however long the lease is, also after claims without a handle.

    A lease may be longer than `poll` can wait: 24.8 days.
    """
    keeper = LeaseKeeper(store, interval_s)
    with keeper.holding(*claimed(store), ["work"]):  # starts the thread, with a claim without a handle
        (job, token), handle = claimed(store), RunHandle()
    with keeper.holding(job, token, ["work"], handle):
        wait_until(lambda: store.client.pubsub_numsub(store.keys.ends)[0][1] == 1)
        Client(store.settings).cancel(job.job_id)
        wait_until(lambda: handle.reason)
    assert handle.reason == "the job has ended"
    assert "cannot listen" not in caplog.text


def test_a_run_that_begins_after_the_grace_period_is_given_back(store: Store) -> None:
    """It was claimed before the end of the grace period, and held after it."""
    (job, token), stop = claimed(store), Stop()
    keeper, early, late = LeaseKeeper(store, 600, stop), RunHandle(), RunHandle()
    stop.over.set()
    with keeper.holding(job, token, ["work"], early):
        wait_until(lambda: early.reason)
    with keeper.holding(job, token, ["work"], late):
        assert (late.reason, late.given_back) == (REASON, True)


def test_a_claim_is_not_renewed_after_its_block(store: Store) -> None:
    """The claim may belong to another worker by then."""
    job, token = claimed(store)
    keeper = LeaseKeeper(store, 600)
    with keeper.holding(job, token, ["work"]):
        pass
    seen = lease_end(store, job)
    store.client.zadd(store.keys.claims(job.job_id), {"work": seen - 1_000})
    keeper.tick()
    assert lease_end(store, job) == seen - 1_000


@pytest.mark.parametrize("handle", [None, RunHandle()])
def test_claims_are_renewed_although_the_thread_could_not_be_started_before(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, handle: RunHandle | None
) -> None:
    """The claim that failed is not renewed, and a later claim is."""
    client = Client(Settings(redis_url=own_server.url))
    store = Store(client.settings)
    job = job_ref(client, client.run_manifest(single("true")))
    token = new_token()
    store.scripts.claim(job, token, (("default", 1),), opening=True)
    keeper = LeaseKeeper(store, 0.05)

    def no_room(_thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_room)
    with pytest.raises(RuntimeError, match="new thread"), keeper.holding(job, token, ["work"], handle):
        pass
    assert not keeper._holdings
    monkeypatch.undo()
    with keeper.holding(job, token, ["work"], handle):
        seen = lease_end(store, job)
        wait_until(lambda: lease_end(store, job) > seen)


def test_a_claim_survives_a_connection_that_is_dead(own_server: ValkeyServer, tmp_path: Path) -> None:
    """The peer has gone without a word, so an answer never comes. The renewal is sent again on a new connection."""
    with Proxy(own_server.port) as proxy:
        settings = Settings(redis_url=f"redis://127.0.0.1:{proxy.port}/0", claim_lease_ms=3_000, temp_dir=tmp_path)
        client = Client(Settings(redis_url=own_server.url))
        job = job_ref(client, client.run_manifest(single("true")))
        direct, token = Store(client.settings), new_token()
        direct.scripts.claim(job, token, (("default", 1),), opening=True)
        with LeaseKeeper(Store(settings), 1).holding(job, token, ["work"], RunHandle()):
            seen = lease_end(direct, job)
            wait_until(lambda: lease_end(direct, job) > seen)
            proxy.make_dead()
            seen = lease_end(direct, job)
            wait_until(lambda: lease_end(direct, job) > seen)
            assert lease_end(direct, job) - seen < 3_000, "renewed before the lease was over"


def test_a_renewal_that_an_early_commit_overtakes_does_not_end_the_run_that_goes_on(store: Store, monkeypatch) -> None:
    """It named agents that the commit has released."""
    (job, token), handle = claimed(store), RunHandle()
    keeper = LeaseKeeper(store, 600)
    with keeper.holding(job, token, ["work", "released"], handle) as holding:
        renew = keeper._scripts.renew

        def overtaken(job: JobRef, token: str, agents: Sequence[str]) -> ReplyCode:
            holding.agents = ("work",)
            return renew(job, token, agents)

        monkeypatch.setattr(keeper._scripts, "renew", overtaken)
        assert keeper.tick()
        assert handle.reason is None
        monkeypatch.undo()
        store.client.hset(store.keys.agent(job.job_id, "work"), "token", "of another worker")
        assert keeper.tick()
        assert handle.reason == "the claim was lost"
