"""Parts of a node while the server or broker is unreachable: no worker counts as dead that could not renew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.pools import LIGHT
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import ReplyCode, new_token
from mirrorneuron.store.sweep_lease import Turn
from tests.support.crash_bundles import fed
from tests.support.graphs import executor, fan, job_ref, light_fan, single
from tests.support.leftovers import clear
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.recovery.sweeper import Sweeper
from workers.runtime import Runtime
from workers.visit import Start, visit

LEASE_MS = 1_000
OUTAGE_S = 2.5  # longer than a lease and some sweeps


@pytest.fixture
def settings(mortal: ValkeyServer, nobody: str, tmp_path: Path) -> Settings:
    """A separate namespace, and a broker that does not exist."""
    name = "".join(c if c.isalnum() else "_" for c in tmp_path.name)[-60:]
    return Settings(
        redis_url=mortal.url,
        broker_url=f"redis://{nobody}/0",
        redis_namespace=name,
        temp_dir=tmp_path / "temp",
        claim_lease_ms=LEASE_MS,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client whose jobs are deleted after the test."""
    made = Client(settings)
    yield made
    clear(made)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    running = Store(settings, node="worker@test")
    yield running
    running.client.close()


@pytest.fixture
def sweeper(settings: Settings, store: Store) -> Sweeper:
    return Sweeper(store, make_app(settings), lambda digest: store.plan(digest)[0])


@pytest.fixture
def claimed(client: Client, store: Store, sweeper: Sweeper) -> Callable[[], ReplyCode]:
    """A claim of a live worker. Calling it renews the claim, as the worker's lease keeper would."""
    job = job_ref(client, client.run_manifest(single("true")))
    token = new_token()
    assert sweeper.tick()  # before the claim, because it could find an expired lease otherwise
    assert store.scripts.claim(job, token, [("default", 1)], agents=["work"], opening=True).claims
    return lambda: store.scripts.renew(job, token, ["work"])


def cut_off(server: ValkeyServer) -> None:
    """Freeze the server for OUTAGE_S."""
    server.freeze()
    began = time.monotonic()
    wait_until(lambda: time.monotonic() > began + OUTAGE_S)
    server.thaw()


def test_a_claim_survives_an_outage_between_two_sweeps(
    mortal: ValkeyServer, sweeper: Sweeper, claimed: Callable[[], ReplyCode]
) -> None:
    """The sweeper is back before the lease keeper; it knows that workers could not renew."""
    cut_off(mortal)
    assert sweeper.tick()
    assert claimed() is ReplyCode.RENEWED


@pytest.mark.parametrize("where", ["take", "agenda", "sweep_all"])
def test_a_claim_survives_an_outage_within_a_sweep(
    mortal: ValkeyServer,
    store: Store,
    sweeper: Sweeper,
    claimed: Callable[[], ReplyCode],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """At any call of the sweep: a call that was sent reaches the server when it is back."""
    asked: Any = {"take": store.sweep_lease, "agenda": store.index.looks, "sweep_all": store.scripts}[where]
    call = getattr(asked, where)
    outages: list[str] = []

    def held_up(*args: Any, **options: Any) -> Any:
        if not outages:
            outages.append(where)
            cut_off(mortal)
        return call(*args, **options)

    store.client.zadd(store.keys.due, dict.fromkeys(store.index.live(), 0))  # so that the sweep looks at the job
    monkeypatch.setattr(asked, where, held_up)
    sweeper.tick()
    assert outages == [where]
    assert claimed() is ReplyCode.RENEWED


@pytest.fixture
def first(settings: Settings, store: Store, claimed: Callable[[], ReplyCode]) -> Sweeper:
    """A sweeper that has just started, in a namespace without an earlier sweep."""
    store.client.delete(store.keys.sweeper, store.keys.swept)
    return Sweeper(store, make_app(settings), lambda digest: store.plan(digest)[0])


def test_a_claim_survives_an_outage_within_the_first_sweep(
    mortal: ValkeyServer,
    store: Store,
    first: Sweeper,
    claimed: Callable[[], ReplyCode],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither an earlier sweep nor an error shows the outage."""
    take = store.sweep_lease.take

    def held_up(*args: Any) -> Turn:
        cut_off(mortal)
        return take(*args)

    monkeypatch.setattr(store.sweep_lease, "take", held_up)
    assert first.tick()
    assert claimed() is ReplyCode.RENEWED


def test_a_claim_survives_refusals_before_the_first_sweep(
    mortal: ValkeyServer, store: Store, first: Sweeper, claimed: Callable[[], ReplyCode]
) -> None:
    """A fleet that has just started finds a server that is out of memory: no claim is renewed and no sweep runs."""
    job_id = store.index.live()[0]
    mortal.client.config_set("maxmemory", 1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first.run)
        try:
            wait_until(lambda: first._outages.failed)
            wait_until(lambda: store.now_ms() > store.client.zscore(store.keys.claims(job_id), "work"))
            mortal.client.config_set("maxmemory", 0)
            wait_until(lambda: store.client.exists(store.keys.swept))
        finally:
            mortal.client.config_set("maxmemory", 0)
            first.stop()
        running.result()
    assert claimed() is ReplyCode.RENEWED


GRAPHS: dict[str, tuple[dict[str, Any], str]] = {
    "light": (light_fan(300), LIGHT),  # more than one claim holds
    "heavy": (fan([executor(name, "true", output_message_type="done") for name in "abc"], "done"), "default"),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_an_unreachable_broker_costs_no_claim(settings: Settings, client: Client, store: Store, kind: str) -> None:
    """Agents that could not be announced wait for the sweeper; claimed agents run."""
    graph, pool = GRAPHS[kind]
    job = job_ref(client, client.run_manifest(graph))
    runtime, app = Runtime(settings, "worker@test"), make_app(settings)
    for start in (Start(opening=True), Start(pool=pool)):
        visit(runtime, app, job, None, start)
        assert store.client.zcard(store.keys.claims(job.job_id)) == 0
    assert sum(agent["processed_messages"] for agent in client.inspect_agents(job.job_id)) > 1


def test_controls_work_while_the_broker_is_unreachable(client: Client, store: Store) -> None:
    """The store applies the control, and the sweeper announces the agents that became ready."""
    job = job_ref(client, client.run_manifest(fed()))
    store.scripts.claim(job, new_token(), [(LIGHT, 1)], opening=True)
    assert client.send_message(job.job_id, "ear", {"envelope": {"message_id": "one"}}) == "one"
    client.pause(job.job_id)
    assert client.resume(job.job_id)["status"] == "running"
    client.cancel(job.job_id)
    assert client.retry(job.job_id)["run"] == 2
    assert client.inspect_agents(job.job_id)[1]["mailbox_depth"] == 1
