"""What others have written into the store: lists pass over it with a warning, and who asks for it is told."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.errors import RecordDamaged
from mirrorneuron.job import JobStatus
from mirrorneuron.message import encode
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.store import NODE, Jobs, packed, static

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def client(settings: Settings) -> Client:
    return Client(settings)


def without(*names: str) -> bytes:
    """The constant part of a job's record, without the fields *names*."""
    return encode({k: v for k, v in static("bad", packed({})[0]).items() if k not in names})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("static", b"{", "EOF"),
        ("static", b"[]", "mapping"),
        ("static", b"{}", "graph_id"),
        ("static", without("daemon"), "daemon"),
        ("static", encode({**static("bad", packed({})[0]), "job_id": "other"}), "the record of job 'other'"),
        ("static", without("manifest_ref"), "manifest_ref"),
        ("static", None, "EOF"),
        ("status", b"\xff", "utf-8"),
        ("status", b"asleep", "asleep"),
        ("status", None, "JobStatus"),
        ("submitted_at", None, "submitted_at"),
        ("submitted_at", b"soon", "soon"),
        ("updated_at", b"9" * 30, "out of range"),
        ("run", b"first", "first"),
    ],
)
def test_a_damaged_job_does_not_hide_others_and_raises_when_it_is_read(
    client: Client,
    store: Store,
    jobs: Jobs,
    caplog: pytest.LogCaptureFixture,
    field: str,
    value: bytes | None,
    said: str,
) -> None:
    for job_id in ("before", "bad", "after"):
        jobs.submit(job_id)
    if value is None:
        store.client.hdel(store.keys.job("bad"), field)
    else:
        store.client.hset(store.keys.job("bad"), field, value)
    assert {job["job_id"] for job in client.list_jobs()} == {"before", "after"}
    assert "job 'bad'" in caplog.text
    assert client.cluster_overview()["counts"]["pending"] == (2 if field == "status" else 3), "it is counted"
    assert {job["job_id"] for job in client.list_jobs(include_terminal=False)} == {"before", "after"}
    for ask in (client.inspect_job, client.wait_for_job, client.inspect_agents, client.job_details, client.why):
        with pytest.raises(RecordDamaged, match=r"^the record of job 'bad' cannot be read: ") as caught:
            ask("bad")
        assert said in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [b"5", b"[", b'["a"]'])
def test_a_damaged_result_raises_record_damaged(client: Client, store: Store, jobs: Jobs, value: bytes) -> None:
    jobs.submit("bad")
    jobs.end("bad", JobStatus.FAILED)
    store.client.hset(store.keys.job("bad"), "result", value)
    with pytest.raises(RecordDamaged, match="job 'bad'"):
        client.dead_letters("bad")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"name": "n0"}', encode({**NODE, "pools": {"light": 1}}), encode({**NODE, "pid": "x"})]
)
def test_a_damaged_registration_does_not_hide_other_nodes(
    client: Client, store: Store, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    for name in ("n0", "n1"):
        store.registry.register({**NODE, "name": name}, 60)
    store.client.set(store.keys.node("n0"), raw)
    store.client.zadd(store.keys.nodes, {b"\xff": 1})
    assert [node["name"] for node in client.inspect_nodes()] == ["n1"]
    assert [node["name"] for node in client.cluster_overview()["nodes"]] == ["n1"]
    assert "node 'n0'" in caplog.text or not raw


@pytest.mark.parametrize("fields", [{"t": "x", "p": "{"}, {"t": b"\xff"}, {"x": "y"}])
def test_a_damaged_event_does_not_hide_others(
    client: Client, store: Store, jobs: Jobs, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    jobs.submit("j")
    jobs.open("j")
    before = client.events("j")
    entry = store.client.xadd(store.keys.events("j"), fields)
    jobs.end("j")
    events = client.events("j")
    assert events[: len(before)] == before
    assert [event["type"] for event in events[len(before) :]] == ["job_completed"]
    assert list(client.stream_events("j")) == events
    assert entry.decode() in caplog.text


def test_a_stream_continues_after_a_page_without_a_readable_event(client: Client, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    before = client.events("j")
    for _ in range(450):
        store.client.xadd(store.keys.events("j"), {"t": "x", "p": "{"})
    jobs.end("j")
    store.client.xadd(store.keys.events("j"), {"t": "x", "p": "{"})
    assert [event["type"] for event in client.stream_events("j")] == [*(e["type"] for e in before), "job_completed"]


def test_damaged_output_and_dead_letters_do_not_hide_others(client: Client, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    good = {"i": "m", "a": "x", "r": "why", "m": b"{}"}
    for row in ({**good, "m": b"{"}, good, {"i": "m"}):
        store.client.xadd(store.keys.dead("j"), row)
    for row in ({"a": "x"}, {"a": "x", "s": "stdout", "t": "hello"}, {"a": b"\xff", "s": "stdout", "t": ""}):
        store.client.xadd(store.keys.logs("j"), row)
    assert [dead["message_id"] for dead in client.dead_letters("j")] == ["m"]
    assert [chunk["text"] for chunk in client.logs("j")] == ["hello"]


@pytest.mark.parametrize(("field", "value"), [("state", b"["), ("state", b"[]"), ("processed", b"x")])
def test_a_damaged_agent_raises_record_damaged(
    client: Client, store: Store, jobs: Jobs, field: str, value: bytes
) -> None:
    jobs.submit("j")
    store.client.hset(store.keys.agent("j", "a"), field, value)
    with pytest.raises(RecordDamaged, match=r"^agent 'a' of job 'j' cannot be read: "):
        client.inspect_agents("j")
    assert client.inspect_job("j")["job_id"] == "j"
