"""Submissions: one round trip creates a job and announces it, if the broker's queues are lists of the same server."""

from __future__ import annotations

import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from celery.signals import before_task_publish

from mirrorneuron.api.client import Client
from mirrorneuron.errors import JobExists, RuntimeUnavailable
from mirrorneuron.message import decode, encode
from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef
from tests.support.store import GRAPH, Jobs, packed
from tests.support.valkey import ValkeyServer


def test_a_submission_that_finds_its_job_still_pending_announces_it(
    settings: Settings, store: Store, jobs: Jobs
) -> None:
    """redis-py retries a pipeline whose reply was lost: the retry finds the job that the first attempt created."""
    jobs.submit("j")
    assert announced(store) == []
    assert Client(settings).run_manifest(GRAPH, job_id="j") == "j"
    assert announced(store) == [jobs.ref("j")]


def test_a_job_that_a_worker_has_opened_is_not_announced_again(settings: Settings, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.open("j")
    assert Client(settings).run_manifest(GRAPH, job_id="j") == "j"
    assert announced(store) == []


def test_a_manifest_with_its_keys_in_another_order_is_the_same_job_under_the_first_digest(
    settings: Settings, store: Store, jobs: Jobs
) -> None:
    client = Client(settings)
    one, turned = ({"policies": dict(rows)} for rows in ([("x", 1), ("y", 2)], [("y", 2), ("x", 1)]))
    digests = [packed(changes)[0].digest for changes in (one, turned)]
    assert digests[0] != digests[1]
    for changes in (one, turned):
        assert client.run_manifest({**GRAPH, **changes}, job_id="j") == "j"
    assert announced(store) == [jobs.ref("j")] * 2
    assert store.known_job("j")["manifest_ref"]["digest"] == jobs.ref("j").digest == digests[0]


def test_a_refused_submission_announces_nothing(settings: Settings, store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    for more in ({"graph_id": "other"}, {"initial_inputs": {"a": [{"n": 1}]}}):
        with pytest.raises(JobExists):
            Client(settings).run_manifest({**GRAPH, **more}, job_id="j")
    assert announced(store) == []


def test_a_submission_is_one_round_trip(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once this process has stored the bundle, knows the time of the server, and has a connection for it."""
    client, sent = Client(settings), []
    for _ in range(2):
        client.run_manifest(GRAPH)
    own = client._live_parts().store.client.connection_pool.connection_class
    send = own.send_packed_command
    monkeypatch.setattr(own, "send_packed_command", lambda *args, **more: (sent.append(1), send(*args, **more))[1])
    job_id = client.run_manifest(GRAPH)
    assert sent == [1]
    assert announced(store)[0].job_id == job_id


def test_a_job_is_not_announced_before_its_bundle_is_stored(
    settings: Settings, store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have lost what this process has stored. A worker that opened the job then would fail it."""
    client = Client(settings)
    client.run_manifest(GRAPH)
    (first,) = announced(store)
    store.client.delete(store.keys.manifest(first.digest))
    bundles, seen = client._live_parts().store.bundles, []
    put = bundles.put
    monkeypatch.setattr(bundles, "put", lambda bundle: (seen.extend(announced(store)), put(bundle)))
    client.run_manifest(GRAPH, job_id="j")
    assert seen == [first]
    assert announced(store) == [jobs.ref("j"), first]


def test_a_failed_announcement_is_logged_and_the_job_is_whole(
    settings: Settings, store: Store, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    """Its queue has another type."""
    store.client.set(queue(settings.redis_namespace, LIGHT), "x")
    assert Client(settings).run_manifest(GRAPH, job_id="j") == "j"
    assert "job j is submitted, but its announcement failed; the sweeper will repeat it" in caplog.text
    jobs.open("j")
    assert [event["type"] for event in store.events("j")][:2] == ["job_pending", "job_validated"]
    assert store.agents(store.known_job("j"))[0]["mailbox_depth"] == 1


def test_a_listener_of_celerys_signals_sees_each_announcement(settings: Settings, store: Store) -> None:
    """Such as a tracer, which adds its headers to the message."""
    client, seen = Client(settings), []

    def add_header(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["id"])
        headers["trace"] = headers["id"]

    client.run_manifest(GRAPH, job_id="before")
    before_task_publish.connect(add_header)
    try:
        client.run_manifest({**GRAPH, "graph_id": "new"}, job_id="i")
        client.run_manifest(GRAPH, job_id="j")
    finally:
        before_task_publish.disconnect(add_header)
    assert seen == ["i", "j"]
    newest = decode(store.client.lindex(queue(settings.redis_namespace, LIGHT), 0))
    assert newest["headers"]["trace"] == "j"


@pytest.fixture
def ready(own_server: ValkeyServer) -> Client:
    """A client that has submitted GRAPH, and has an open connection to a server of its own."""
    client = Client(Settings(redis_url=own_server.url, client_timeout_ms=1_000))
    for _ in range(3):
        client.run_manifest(GRAPH)
    return client


def in_other_threads(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each call that is made in another thread from now on."""
    calls, made = client._live_parts().store.calls, []
    run = calls.run
    monkeypatch.setattr(calls, "run", lambda *args: (made.append(1), run(*args))[1])
    return made


def test_a_known_bundle_is_submitted_in_the_callers_thread(ready: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made = in_other_threads(ready, monkeypatch)
    for n in range(3):
        ready.run_manifest(GRAPH, inputs={"a": n}, job_id=f"j{n}")
        assert ready.inspect_job(f"j{n}")["status"] == "pending"
    assert made == []
    ready.run_manifest(GRAPH, inputs={"a": "x" * 70_000})  # a socket may not take it at once
    assert made == [1]
    with pytest.raises(JobExists):
        ready.run_manifest(GRAPH, inputs={"a": 5}, job_id="j1")
    assert len(announced(ready._live_parts().store)) == 3 + 3 + 1


@pytest.mark.parametrize("lost", ["bundle", "connection", "data"])
def test_what_the_server_has_lost_costs_no_submission(ready: Client, own_server: ValkeyServer, lost: str) -> None:
    store = ready._live_parts().store
    if lost == "bundle":
        store.client.delete(*store.client.scan_iter(store.keys.manifest("*")))
    elif lost == "connection":
        own_server.client.client_kill_filter(_type="normal", skipme=True)
    else:
        own_server.flush()
        own_server.client.script_flush()
    ready.run_manifest(GRAPH, job_id="j")
    ref = store.ref("j")
    assert ref is not None
    assert announced(store)[0] == ref
    assert store.plan(ref.digest)[0].entrypoints == ("a",)
    assert len(store.events("j")) == 2


def test_a_submission_to_a_frozen_server_ends_in_time_and_can_be_repeated(
    ready: Client, own_server: ValkeyServer
) -> None:
    own_server.freeze()
    began = time.monotonic()
    with pytest.raises(RuntimeUnavailable) as caught:
        ready.run_manifest(GRAPH)
    assert time.monotonic() - began < 4.0  # less than one time-out of a socket
    own_server.thaw()
    job_id = caught.value.job_id
    assert job_id is not None
    assert ready.run_manifest(GRAPH, job_id=job_id) == job_id
    assert len(ready._live_parts().store.events(job_id)) == 2


def announced(store: Store) -> list[JobRef]:
    """The jobs of the messages in the queue of light workers, newest first."""
    rows = store.client.lrange(queue(store.keys.ns, LIGHT), 0, -1)
    return [JobRef(*decode(b64decode(decode(row)["body"]))[0][:3]) for row in rows]


def test_other_payloads_make_another_bundle(settings: Settings, tmp_path: Path) -> None:
    client, file = Client(settings), tmp_path / "payloads" / "data"
    file.parent.mkdir()
    (tmp_path / "manifest.json").write_bytes(encode(GRAPH))
    file.write_text("one")
    assert client.run_manifest(tmp_path, job_id="j") == "j"
    file.write_text("two")
    with pytest.raises(JobExists):
        client.run_manifest(tmp_path, job_id="j")
