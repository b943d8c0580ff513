"""Damaged records in the store: a reader reports one at once; it affects no other record and nothing hangs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron.api.client import Client
from mirrorneuron.errors import MirrorNeuronError
from mirrorneuron.message import decode, encode
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.records import AGENT_FIELDS, JOB_FIELDS
from tests.fuzz.conftest import fuzzed, is_one_line
from tests.support.fuzzing.values import documents, garbled
from tests.support.store import NODE

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

LONGEST_S = 30.0  # of one call
LISTS = ("list_jobs", "cluster_overview", "inspect_nodes")  # these skip damaged records
GRAPH: dict[str, Any] = {
    "manifest_version": "1.0",
    "graph_id": "g",
    "entrypoints": ["in"],
    "nodes": [{"node_id": "in", "agent_type": "router"}, {"node_id": "all", "agent_type": "aggregator"}],
    "edges": [{"from_node": "in", "to_node": "all", "message_type": "*"}],
}
QUESTIONS: dict[str, Callable[[Client, str], Any]] = {
    "inspect_job": lambda client, job: client.inspect_job(job),
    "inspect_agents": lambda client, job: client.inspect_agents(job),
    "job_details": lambda client, job: client.job_details(job),
    "job_manifest": lambda client, job: client.job_manifest(job),
    "wait_for_job": lambda client, job: client.wait_for_job(job, timeout=timedelta(0)),
    "list_jobs": lambda client, job: client.list_jobs(),
    "cluster_overview": lambda client, job: client.cluster_overview(),
    "inspect_nodes": lambda client, job: client.inspect_nodes(),
    "events": lambda client, job: client.events(job),
    "why": lambda client, job: client.why(job),
    "dead_letters": lambda client, job: client.dead_letters(job),
    "pause": lambda client, job: client.pause(job),
    "send_message": lambda client, job: client.send_message(job, "all", {"body": 1}),
}
VALUES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"{}", b"[]", b"null", b"-1", b"0", b"9" * 30, b"nan", b"\xff", b"running", b"RUNNING", b"1.5"]
    ),
)


class Kept:
    """A namespace with a running job, an ended job and a registered node."""

    def __init__(self, settings: Settings) -> None:
        self.client = Client(settings)
        self.store = Store(settings)
        for job_id in ("ended", "live"):
            self.client.run_manifest(GRAPH, job_id=job_id)
        self.client.cancel("ended", reason="no need")
        self.store.registry.register({**NODE, "name": "node"}, seconds=600)

    def damage(self, key: str, field: str, value: bytes) -> None:
        self.store.client.hset(key, field, value)

    def asked(self, question: str, job_id: str) -> Any:
        """The result of the call or its error, which must come at once."""
        began = time.monotonic()
        try:
            return QUESTIONS[question](self.client, job_id)
        except MirrorNeuronError as error:
            is_one_line(error)
            assert question not in LISTS
            return error
        finally:
            assert time.monotonic() - began < LONGEST_S


@pytest.fixture(scope="module")
def kept(redis_url: str, leaving: None) -> Kept:
    settings = Settings(redis_url=redis_url, redis_namespace=f"fuzz-{secrets.token_hex(4)}")
    return Kept(settings)


def hash_of(kept: Kept, job_id: str, part: str) -> str:
    return kept.store.keys.job(job_id) if part == "job" else kept.store.keys.agent(job_id, "in")


FIELDS = st.sampled_from(
    [("job", name) for name in (*JOB_FIELDS, "digest")] + [("agent", name) for name in AGENT_FIELDS]
)


@fuzzed(30)
@given(st.sampled_from(["ended", "live"]), FIELDS, st.sampled_from(sorted(QUESTIONS)), st.data())
def test_a_damaged_field_is_reported_at_once_and_repaired_it_is_as_before(
    kept: Kept, job_id: str, field: tuple[str, str], question: str, data: st.DataObject
) -> None:
    redis, key, name = kept.store.client, hash_of(kept, job_id, field[0]), field[1]
    before = redis.dump(key)
    value = redis.hget(key, name) or b""
    kept.damage(key, name, data.draw(VALUES | garbled(value) | documents({"job_id": job_id})))
    try:
        kept.asked(question, job_id)
        other = {"ended": "live", "live": "ended"}[job_id]
        assert kept.client.inspect_job(other)["job_id"] == other
    finally:
        if before is None:
            redis.delete(key)
        else:
            redis.restore(key, 0, before, replace=True)
        redis.persist(key)
    assert kept.client.inspect_job(job_id)["job_id"] == job_id


@fuzzed(12)
@given(documents({**NODE, "name": "node"}))
@example(b'{"name": "node"}')
def test_a_damaged_registration_is_skipped_at_once(kept: Kept, raw: bytes) -> None:
    key = kept.store.keys.node("node")
    before = kept.store.client.get(key)
    kept.store.client.set(key, raw)
    began = time.monotonic()
    try:
        encode([kept.client.inspect_nodes(), kept.client.cluster_overview()])
    finally:
        kept.store.client.set(key, before)
    assert time.monotonic() - began < LONGEST_S
    assert [node["name"] for node in kept.client.inspect_nodes()] == ["node"]


@fuzzed(12)
@given(st.dictionaries(st.sampled_from(["t", "a", "p", "x"]), VALUES | documents({"n": 1}), min_size=1))
def test_a_damaged_event_is_skipped_at_once(kept: Kept, fields: dict[str, bytes]) -> None:
    key = kept.store.keys.events("ended")
    last = kept.client.events("ended")[-1]["id"]
    entry = kept.store.client.xadd(key, fields)
    began = time.monotonic()
    try:
        for found in (kept.client.events("ended"), list(kept.client.stream_events("ended"))):
            assert [event["type"] for event in found]
            assert found[-2]["id"] == last or found[-1]["id"] == last
    finally:
        kept.store.client.xdel(key, entry)
    assert time.monotonic() - began < LONGEST_S
    assert decode(encode(kept.client.events("ended")))
