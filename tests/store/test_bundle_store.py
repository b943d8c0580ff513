"""Bundles in the store: once each, in chunks, renewed while a job may need them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from mirrorneuron.api.client import Client
from mirrorneuron.bundle.load import PackedBundle
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.errors import BundleNotFound
from mirrorneuron.message import decode
from mirrorneuron.store.bundle_store import CHUNK_BYTES, FOR_EVER_SECONDS, FREED_SECONDS, SPARE_SECONDS, UPLOAD_SECONDS
from mirrorneuron.store.job_creation import JobDraft
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import ReplyCode
from tests.support.store import Jobs, packed, static
from workers.recovery.sweeper import Sweeper

TTL_S = 3_600 + SPARE_SECONDS


@pytest.fixture
def bundle(tmp_path: Path) -> PackedBundle:
    """A bundle whose incompressible payloads take three chunks."""
    (tmp_path / "data").write_bytes(random.Random(1).randbytes(2 * CHUNK_BYTES + 5))
    return packed({}, tmp_path)[0]


def parts(store: Store, bundle: PackedBundle) -> tuple[str, str]:
    return store.keys.manifest(bundle.digest), store.keys.bundle(bundle.payloads_digest or "")


def test_a_stored_bundle_is_read_back(store: Store, bundle: PackedBundle) -> None:
    assert store.bundles.has(bundle) is False
    store.bundles.put(bundle)
    assert store.bundles.has(bundle) is True
    manifest, payloads_digest = store.bundles.manifest(bundle.digest)
    assert manifest.to_dict() == {**decode(bundle.manifest_json), "initial_inputs": {}, "metadata": {}}
    assert payloads_digest == bundle.payloads_digest
    assert store.bundles.payloads(bundle.payloads_digest or "") == bundle.payloads


def test_payloads_are_stored_once_and_in_chunks(store: Store, bundle: PackedBundle) -> None:
    for _ in range(2):
        store.bundles.put(bundle)
    _, chunks = parts(store, bundle)
    sizes = [len(chunk) for chunk in store.client.hvals(chunks)]
    assert sum(sizes) == len(bundle.payloads or b"")
    assert (len(sizes), max(sizes)) == (3, CHUNK_BYTES)
    assert list(store.client.scan_iter(f"*{chunks}*:*", count=10_000)) == []  # no draft is left


def test_a_draft_is_in_the_namespace_in_the_slot_of_its_bundle_and_expires(
    store: Store, bundle: PackedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ACL may bind a user to the namespace, and RENAME needs one slot."""
    digest = bundle.payloads_digest or ""
    monkeypatch.setattr("mirrorneuron.store.bundle_store.secrets.token_hex", lambda _: "t")
    draft, key = store.keys.draft(digest, "t"), store.keys.bundle(digest)
    assert draft.startswith(f"{store.keys.ns}:")
    assert key_slot(draft.encode()) == key_slot(key.encode())
    store.client.set(draft, "in the way")  # the first chunk fails, as after a crash in the middle of an upload
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        store.bundles.put(bundle)
    assert 0 < store.client.ttl(draft) <= UPLOAD_SECONDS
    store.client.delete(draft)


def test_a_bundle_without_payloads_has_none(store: Store) -> None:
    bundle, _ = packed({})
    store.bundles.put(bundle)
    assert store.bundles.has(bundle) is True
    assert store.bundles.manifest(bundle.digest)[1] is None


def test_the_ttl_of_a_bundle_is_longer_than_retention_and_renewed_with_each_job(
    store: Store, bundle: PackedBundle
) -> None:
    store.bundles.put(bundle)
    for renew in (store.bundles.has, store.bundles.put):
        for name in parts(store, bundle):
            store.client.expire(name, 60)
        renew(bundle)
        assert store.client.ttl(parts(store, bundle)[0]) > TTL_S - 60
    store.bundles.has(bundle)
    assert all(store.client.ttl(name) > TTL_S - 60 for name in parts(store, bundle))


def test_creating_a_job_renews_its_bundle(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    bundle, plan = packed({}, tmp_path)
    store.bundles.put(bundle)
    for name in parts(store, bundle):
        store.client.expire(name, 60)
    store.creation.create(JobDraft("j", plan, bundle, {"job_id": "j"}, {}, ""))
    assert all(store.client.ttl(name) > TTL_S - 60 for name in parts(store, bundle))


@pytest.mark.parametrize("lost", [0, 1])
def test_creating_a_job_stores_missing_parts_of_its_bundle(store: Store, tmp_path: Path, lost: int) -> None:
    """A producer that has stored the bundle before does not check again."""
    (tmp_path / "file").write_text("x")
    bundle, plan = packed({}, tmp_path)
    store.bundles.put(bundle)
    store.client.delete(parts(store, bundle)[lost])
    assert store.creation.create(JobDraft("j", plan, bundle, {"job_id": "j"}, {}, "")).word is ReplyCode.CREATED
    assert all(store.client.ttl(name) > TTL_S - 60 for name in parts(store, bundle))


def test_a_sweep_renews_the_bundles_of_live_jobs_only(store: Store, jobs: Jobs, tmp_path: Path) -> None:
    """A job may run for longer than the retention."""
    (tmp_path / "file").write_text("x")
    bundle, plan = packed({}, tmp_path)
    store.bundles.put(bundle)
    store.creation.create(JobDraft("live", plan, bundle, {"job_id": "live"}, {}, ""))
    jobs.submit("over", graph_id="other")
    jobs.end("over")
    store.index.mark_ended(["over"])
    names = [*parts(store, bundle), store.keys.manifest(jobs.ref("over").digest)]
    for name in names:
        store.client.expire(name, 60)
    assert Sweeper(store, make_app(store.settings), lambda digest: store.plan(digest)[0]).tick()
    assert [store.client.ttl(name) > TTL_S - 60 for name in names] == [True, True, False]


def test_without_retention_bundles_are_kept_for_ever(make_store: Callable[..., Store], bundle: PackedBundle) -> None:
    store = make_store(retention_seconds=0)
    store.bundles.put(bundle)
    assert all(store.client.ttl(name) > FOR_EVER_SECONDS - 60 for name in parts(store, bundle))
    store.client.expire(parts(store, bundle)[1], 60)
    store.bundles.has(bundle)
    assert store.client.ttl(parts(store, bundle)[1]) > FOR_EVER_SECONDS - 60


@pytest.mark.parametrize("retention_seconds", [0, 3_600])
def test_a_bundle_expires_soon_after_its_last_job_was_deleted(
    make_store: Callable[..., Store], tmp_path: Path, retention_seconds: int
) -> None:
    """Its payloads too, unless the bundle of another job shares them."""
    store = make_store(retention_seconds=retention_seconds)
    (tmp_path / "file").write_text("x")
    bundles = {}
    for name, graph in (("one", "g"), ("same", "g"), ("other", "h")):
        bundles[name], plan = packed({"graph_id": graph}, tmp_path)
        store.bundles.put(bundles[name])
        store.creation.create(JobDraft(name, plan, bundles[name], static(name, bundles[name]), {}, ""))
    manifest, payloads = parts(store, bundles["one"])
    client = Client(store.settings)
    lasts = []
    for name in ("one", "same", "other"):
        client.cancel(name)
        assert client.cleanup_jobs() == [name]
        lasts.append([store.client.ttl(key) > FREED_SECONDS for key in (manifest, payloads)])
    assert lasts == [[True, True], [False, True], [False, False]]
    assert store.client.ttl(parts(store, bundles["other"])[0]) <= FREED_SECONDS


def test_a_bundle_that_is_submitted_while_it_is_freed_is_kept(
    store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.submit("j")
    name, digest = store.keys.manifest(jobs.ref("j").digest), jobs.ref("j").digest
    jobs.end("j")
    store.delete("j", ["a", "x", "join"])
    free = store.bundles.free

    def submitted_meanwhile(*args: Any) -> None:
        jobs.submit("k")
        free(*args)

    monkeypatch.setattr(store.bundles, "free", submitted_meanwhile)
    store.free_bundles({digest})
    assert store.client.ttl(name) > FREED_SECONDS


@pytest.mark.parametrize("lost", [0, 1])
def test_a_bundle_with_a_missing_part_is_stored_again(store: Store, bundle: PackedBundle, lost: int) -> None:
    store.bundles.put(bundle)
    store.client.delete(parts(store, bundle)[lost])
    assert store.bundles.has(bundle) is False
    store.bundles.put(bundle)
    assert store.bundles.payloads(bundle.payloads_digest or "") == bundle.payloads


def test_a_missing_bundle_raises_a_lookup_error_with_its_digest(store: Store) -> None:
    with pytest.raises(LookupError, match="bundle 'abc' is not in the store"):
        store.bundles.manifest("abc")
    with pytest.raises(LookupError, match="payloads 'abc' are not in the store"):
        store.bundles.payloads("abc")
    with pytest.raises(LookupError):
        store.plan("abc")


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b"{}", b'{"manifest": 1, "payloads": null}', b"\xff"])
def test_a_damaged_manifest_counts_as_missing(store: Store, bundle: PackedBundle, document: bytes) -> None:
    """Its jobs then fail instead of being retried for ever."""
    store.client.set(store.keys.manifest(bundle.digest), document)
    with pytest.raises(BundleNotFound, match=f"^bundle '{bundle.digest}' cannot be read: "):
        store.plan(bundle.digest)
    store.bundles.renew([bundle.digest])


def test_a_manifest_that_was_changed_in_the_store_is_refused(store: Store, bundle: PackedBundle) -> None:
    """It would run other commands under the digest of a bundle that somebody has checked."""
    store.bundles.put(bundle)
    name = store.keys.manifest(bundle.digest)
    good = store.client.get(name) or b""
    payloads = (bundle.payloads_digest or "").encode()
    for changed in (good.replace(b'"job_name":"g"', b'"job_name":"h"'), good.replace(payloads, b"0" * 64), b" " + good):
        assert changed != good
        store.client.set(name, changed)
        with pytest.raises(BundleNotFound, match="not what was stored under this digest"):
            store.bundles.manifest(bundle.digest)
    store.client.set(name, good)
    assert store.bundles.manifest(bundle.digest)[1] == bundle.payloads_digest


@pytest.mark.parametrize("change", ["other", "cut", "longer"])
def test_an_archive_that_was_changed_in_the_store_is_refused(store: Store, bundle: PackedBundle, change: str) -> None:
    store.bundles.put(bundle)
    _, name = parts(store, bundle)
    chunk = store.client.hget(name, "1") or b""
    store.client.hset(name, "1", {"other": b"x" + chunk[1:], "cut": chunk[:-1], "longer": chunk + b"x"}[change])
    with pytest.raises(BundleNotFound, match=f"the payloads {bundle.payloads_digest} are damaged: their SHA-256 is"):
        store.bundles.payloads(bundle.payloads_digest or "")


def test_the_size_of_a_stored_bundle_is_checked_before_it_is_read(
    store: Store, make_store: Callable[..., Store], bundle: PackedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_store(max_bundle_bytes=CHUNK_BYTES)
    small.bundles.put(bundle)
    replies: list[int] = []
    original = small.client.execute_command

    def counted(*words: Any, **options: Any) -> Any:
        reply = original(*words, **options)
        replies.append(len(reply) if isinstance(reply, bytes) else 0)
        return reply

    monkeypatch.setattr(small.client, "execute_command", counted)
    with pytest.raises(BundleNotFound, match=r"archive .* exceeds MIRROR_NEURON_MAX_BUNDLE_BYTES \(1048576 bytes\)"):
        small.bundles.payloads(bundle.payloads_digest or "")
    assert max(replies) == 0
    name = small.keys.manifest(bundle.digest)
    small.client.set(name, b" " * 3 * CHUNK_BYTES)
    with pytest.raises(BundleNotFound, match=r"manifest of bundle .* exceeds MIRROR_NEURON_MAX_BUNDLE_BYTES"):
        small.bundles.manifest(bundle.digest)
    assert max(replies) < CHUNK_BYTES + 200
    small.client.hset(small.keys.bundle("many"), mapping={str(number): b"" for number in range(3)})
    with pytest.raises(BundleNotFound, match="exceeds"):
        small.bundles.payloads("many")


def test_a_job_with_a_damaged_bundle_fails_and_does_not_stop_the_sweep_of_others(
    make_store: Callable[..., Store],
) -> None:
    now = [time.time_ns() // 1_000_000]
    store = make_store(clock=lambda: now[0])
    jobs = Jobs(store)
    names = ("bad", "worse", "late")
    for job_id in names:
        jobs.submit(job_id, graph_id=job_id, policies={"job_timeout_ms": 1} if job_id == "late" else {})
        jobs.open(job_id)
    store.client.set(store.keys.manifest(jobs.ref("bad").digest), b"{")
    store.client.hset(store.keys.job("worse"), "digest", b"\xff")
    app = make_app(store.settings)
    sweeper = Sweeper(store, app, lambda digest: store.plan(digest)[0])
    for _ in range(2):
        now[0] += 600_000
        assert sweeper.tick()
    errors = [
        (job["status"], job["result"]["error"]) for name in names if (job := store.read_job(name)) and job["result"]
    ]
    assert [status for status, _ in errors] == ["failed"] * 3
    for said, (_, error) in zip(("cannot be read", "is not in the store", "job_timeout_ms"), errors, strict=True):
        assert said in error


def test_an_incomplete_upload_is_invisible_and_expires(
    store: Store, bundle: PackedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(*_: object) -> None:
        raise ConnectionError("cut")

    monkeypatch.setattr(store.client, "rename", power_cut)
    with pytest.raises(ConnectionError):
        store.bundles.put(bundle)
    assert store.bundles.has(bundle) is False
    (draft,) = store.client.scan_iter(f"*{store.keys.ns}:bundle:*", count=10_000)
    assert 0 < store.client.ttl(draft) <= 600


def test_an_upload_survives_a_lost_reply(store: Store, bundle: PackedBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py retries a pipeline whose reply was lost, although the server has executed it."""
    make, lost = store.client.pipeline, [True]

    def pipeline(*args: Any, **options: Any) -> Any:
        pipe = make(*args, **options)
        execute = pipe.execute

        def execute_twice() -> Any:
            if lost and pipe.command_stack and b"HSET" in pipe.command_stack[0][0][0].encode():
                lost.clear()
                again = list(pipe.command_stack)
                execute()
                pipe.command_stack = again
            return execute()

        pipe.execute = execute_twice
        return pipe

    monkeypatch.setattr(store.client, "pipeline", pipeline)
    store.bundles.put(bundle)
    assert lost == []
    assert store.bundles.payloads(bundle.payloads_digest or "") == bundle.payloads
