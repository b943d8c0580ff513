"""Each kind of violation is reported: the tests change keys of jobs that have completed correctly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.chaos import invariants
from mirrorneuron.chaos.graphs import Graph, all_graphs
from mirrorneuron.chaos.invariants import Flaw
from mirrorneuron.chaos.producer import Order, produce, submitted, write_orders
from mirrorneuron.message import decode, encode
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.node import RealNode
from tests.support.sweeping import no_sweeps
from tests.support.waiting import wait_until

GRAPHS = {graph.name: graph for graph in all_graphs()}
CHAIN = GRAPHS["chain"]


@pytest.fixture(scope="module")
def own(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """A node with a namespace that only the tests of this module use."""
    folder = tmp_path_factory.mktemp("invariants")
    settings = Settings(
        redis_url=redis_url, redis_namespace=folder.name, temp_dir=folder / "temp", executor_max_concurrency=2
    )
    node = RealNode(folder, settings)
    node.env["TMPDIR"] = str(folder)  # the flaky command leaves its file there
    with node:
        yield node


@pytest.fixture
def store(own: RealNode) -> Iterator[Store]:
    """The store of the node, emptied after each test."""
    made = Store(own.settings)
    yield made
    if names := kept(made):
        made.client.delete(*names)
    made.client.close()


def kept(store: Store) -> list[bytes]:
    """Return the keys of jobs and bundles, and the indexes of jobs."""
    return [
        name
        for part in ("job*", "manifest:*", "bundle:*")
        for name in store.client.scan_iter(f"{store.keys.ns}:{part}")
    ]


def run(own: RealNode, store: Store, graph: Graph, folder: Path) -> str:
    """Run a job of *graph* to its end, and return its id."""
    job_id = f"job-{graph.name}"
    order = Order(job_id=job_id, bundle=graph.write(folder), due_at_s=0, feed=graph.feed)
    write_orders(folder, [order])
    client = Client(own.settings)
    produce(client, folder)
    assert submitted(folder) == {job_id}
    client.wait_for_job(job_id, timeout=60_000)
    wait_until(lambda: not store.index.live())
    return job_id


@pytest.fixture
def chain(own: RealNode, store: Store, tmp_path: Path) -> str:
    return run(own, store, CHAIN, tmp_path)


@pytest.fixture
def unswept(store: Store) -> Iterator[None]:
    """The sweeper of the node does not run, so that a test can change a job. Request it before the job is created."""
    with no_sweeps(store):
        yield


def flaws(store: Store, job_id: str) -> list[tuple[Flaw, int]]:
    found = [*invariants.of_job(store, job_id, CHAIN.expected), *invariants.of_store(store)]
    return [(violation.flaw, violation.count) for violation in found]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_job_that_completed_correctly_has_no_violations(own: RealNode, store: Store, tmp_path: Path, name: str):
    """A second producer with the same orders changes nothing."""
    job_id = run(own, store, GRAPHS[name], tmp_path)
    produce(Client(own.settings), tmp_path)
    (tmp_path / "submitted").write_bytes(b"")
    produce(Client(own.settings), tmp_path)
    wait_until(lambda: not store.index.live())
    assert [*invariants.of_job(store, job_id, GRAPHS[name].expected), *invariants.of_store(store)] == []


def test_a_job_without_a_record_is_lost(store: Store):
    assert flaws(store, "missing") == [(Flaw.LOST, 1)]


@pytest.mark.parametrize(("by", "flaw"), [(-2, Flaw.LOST), (1, Flaw.DOUBLED)])
def test_messages_consumed_too_rarely_or_too_often_are_reported(store: Store, chain: str, by: int, flaw: Flaw):
    store.client.hincrby(store.keys.agent(chain, "second"), "processed", by)
    assert flaws(store, chain) == [(flaw, abs(by))]


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        (lambda messages: messages[1:], Flaw.LOST),
        (lambda messages: [*messages, messages[0]], Flaw.DOUBLED),
        (lambda messages: messages[::-1], Flaw.DISORDERED),
    ],
)
def test_output_with_other_messages_than_were_sent_is_reported(
    store: Store, chain: str, change: Callable[[list[int]], list[int]], flaw: Flaw
):
    result = decode(store.client.hget(store.keys.job(chain), "result"))
    result["output"]["messages"] = change(result["output"]["messages"])
    store.client.hset(store.keys.job(chain), "result", encode(result))
    assert flaws(store, chain) == [(flaw, 1)]


def test_another_output_is_reported(own: RealNode, store: Store, tmp_path: Path):
    job_id = run(own, store, GRAPHS["fed"], tmp_path)
    store.client.hset(store.keys.job(job_id), "result", encode({"output": {"count": 6, "last_message": 4}}))
    (found,) = invariants.of_job(store, job_id, GRAPHS["fed"].expected)
    assert (found.flaw, "expected {'count': 6, 'last_message': 5}" in found.what) == (Flaw.LOST, True)


def add_event(store: Store, job_id: str, kind: str, agent: str = "", payload: str = "") -> None:
    store.client.xadd(store.keys.events(job_id), {"t": kind, "a": agent, "p": payload})


@pytest.mark.parametrize(
    ("kind", "agent", "payload"),
    [
        ("job_completed", "", ""),
        ("job_failed", "", ""),
        ("agent_message_received", "third", '{"count": 1}'),
        ("aggregator_duplicate_ignored", "sink", "{}"),
    ],
)
def test_events_of_more_messages_than_were_sent_are_reported(
    store: Store, chain: str, kind: str, agent: str, payload: str
):
    add_event(store, chain, kind, agent, payload)
    assert flaws(store, chain) == [(Flaw.DOUBLED, 1)]


def test_a_job_without_events_is_lost(store: Store, chain: str):
    store.client.delete(store.keys.events(chain))
    assert {flaw for flaw, _ in flaws(store, chain)} == {Flaw.LOST}


def test_a_job_that_failed_is_lost(store: Store, chain: str):
    store.client.hset(store.keys.job(chain), mapping={"status": "failed", "result": '{"error": "it broke"}'})
    (found,) = invariants.of_job(store, chain, CHAIN.expected)
    assert str(found) == "lost: job-chain: the job ended failed: None: it broke"


@pytest.mark.usefixtures("unswept")
def test_a_job_that_has_not_ended_is_stuck(store: Store, chain: str):
    store.client.hset(store.keys.job(chain), "status", "running")
    store.client.sadd(store.keys.live, chain)
    store.client.rpush(store.keys.mail(chain, "second"), "{}")
    (found,) = invariants.of_job(store, chain, CHAIN.expected)
    what, _, why = str(found).partition("; why: ")
    assert (
        what
        == "stuck: job-chain: the job is running: agent second is queued with 1 unread messages after 12 consumed ones"
    )
    assert why


def test_an_unread_message_is_lost(store: Store, chain: str):
    store.client.rpush(store.keys.mail(chain, "second"), "{}")
    store.client.expire(store.keys.mail(chain, "second"), 1_000)
    assert flaws(store, chain) == [(Flaw.LOST, 1)]


def test_a_claim_of_an_ended_job_is_reported(store: Store, chain: str):
    store.client.hset(store.keys.agent(chain, "second"), "token", "abc")
    assert flaws(store, chain) == [(Flaw.CLAIMED, 1)]
    store.client.zadd(store.keys.claims(chain), {"second": 1, "third": 1})
    assert flaws(store, chain) == [(Flaw.CLAIMED, 2), (Flaw.LEAKED, 1)]


def test_the_draft_of_an_upload_without_a_ttl_is_a_leak(store: Store):
    name = store.keys.draft("0" * 64, "token")
    store.client.set(name, 1)
    try:
        assert invariants.leaked_keys(store) == [name]
    finally:
        store.client.delete(name)


def test_keys_of_ended_jobs_without_a_ttl_are_leaks(store: Store, chain: str):
    assert invariants.leaked_keys(store) == []
    names = [store.keys.agent(chain, "second"), store.keys.job(chain)]
    for name in names:
        store.client.persist(name)
    store.client.set(f"{store.keys.ns}:job:other", 1)
    assert invariants.leaked_keys(store) == sorted([*names, f"{store.keys.ns}:job:other"])

    def only_the_other_leaks() -> bool:
        store.client.sadd(store.keys.live, chain)  # until the sweeper of the node removes it
        return invariants.leaked_keys(store) == [f"{store.keys.ns}:job:other"]

    wait_until(only_the_other_leaks)


def test_an_ended_job_in_the_live_index_is_a_leak(store: Store, chain: str):
    """The check repeats, because the sweeper of the node removes the job from the index."""

    def seen() -> bool:
        store.client.sadd(store.keys.live, chain, "missing")
        return flaws(store, chain) == [(Flaw.LEAKED, 1)] * 2

    wait_until(seen)


def test_jobs_and_bundles_without_a_ttl_are_no_leaks_if_retention_is_unlimited(own: RealNode, store: Store, chain: str):
    """With `retention_seconds` 0, jobs and bundles have no TTL. A key that belongs to no job is still a leak."""
    for_ever = Store(own.settings.model_copy(update={"retention_seconds": 0}))
    for name in kept(store):
        store.client.persist(name)
    store.client.set(f"{store.keys.ns}:job:{{gone}}:events", 1)
    assert invariants.leaked_keys(for_ever) == [f"{store.keys.ns}:job:{{gone}}:events"]
    for_ever.client.close()


def test_reruns_are_counted(store: Store, chain: str):
    assert invariants.reruns(store.events(chain)) == 0
    for kind in ("agent_recovery_started", "agent_recovered", "executor_retry"):
        add_event(store, chain, kind, "second")
    assert invariants.reruns(store.events(chain)) == 2
