"""Output of running commands is written to the store in chunks, within bounds, and is deleted with the job."""

from __future__ import annotations

import secrets
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from mirrorneuron.bundle.load import pack, validate_manifest
from mirrorneuron.bundle.plan import make_plan
from mirrorneuron.job import LogChunk
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_creation import JobDraft
from mirrorneuron.store.job_store import Store
from tests.support.valkey import ValkeyServer
from workers.runners.live_output import CHUNK_BYTES, HALF_BYTES, LiveOutput

GRAPH: dict[str, Any] = {
    "manifest_version": "1.0",
    "graph_id": "g",
    "entrypoints": ["a"],
    "nodes": [{"node_id": "a", "agent_type": "router"}],
}
JOB = "j"


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    """A store in which one job is kept."""
    made = Store(Settings(redis_url=redis_url, redis_namespace=f"live-{secrets.token_hex(6)}", retention_seconds=100))
    bundle = validate_manifest(GRAPH)
    made.creation.create(JobDraft(JOB, make_plan(bundle.manifest), pack(bundle, 1 << 20), {"job_id": JOB}, {}, ""))
    yield made
    made.client.close()


@pytest.fixture
def live(store: Store) -> LiveOutput:
    """It writes when the test says so; its own thread may have done it a moment before."""
    return LiveOutput(store, kept_bytes=1 << 20)


def texts(store: Store) -> list[str]:
    return [chunk["text"] for chunk in all_of(store)]


def all_of(store: Store) -> list[LogChunk]:
    return store.logs(JOB, "0", 0)


def test_output_is_readable_while_the_run_continues(store: Store, live: LiveOutput) -> None:
    with live.of(JOB, "a") as echo:
        echo("stdout", b"one\n")
        live.write_pending()
        echo("stderr", b"two\n")
        live.write_pending()
        assert [(c["agent_id"], c["stream"], c["text"]) for c in all_of(store)] == [
            ("a", "stdout", "one\n"),
            ("a", "stderr", "two\n"),
        ]


def test_a_character_that_comes_in_two_pieces_is_one(store: Store, live: LiveOutput) -> None:
    euro = "€".encode()
    with live.of(JOB, "a") as echo:
        echo("stdout", b"1 " + euro[:1])
        live.write_pending()
        echo("stdout", euro[1:] + b"\xff")
        live.write_pending()
    live.write_pending()
    assert "".join(texts(store)) == "1 €\ufffd"


def test_half_a_character_at_the_end_is_not_lost(store: Store, live: LiveOutput) -> None:
    with live.of(JOB, "a") as echo:
        echo("stdout", "€".encode()[:2])
    live.write_pending()
    assert texts(store) == ["\ufffd"]


def test_the_middle_of_output_that_comes_too_fast_is_counted_but_not_kept(store: Store, live: LiveOutput) -> None:
    """The head says what a command set out to do, the tail what went wrong."""
    with live.of(JOB, "a") as echo:
        for letter in b"abcd":
            echo("stdout", bytes([letter]) * HALF_BYTES)
        echo("stdout", b"error")
    found = texts(store)
    marker = next(text for text in found if "left out" in text)
    assert f" {2 * HALF_BYTES + len('error')} bytes left out" in marker
    before, _, after = "".join(found).partition(marker)
    assert before == "a" * HALF_BYTES
    assert after == "d" * (HALF_BYTES - len("error")) + "error"
    assert max(map(len, found)) == CHUNK_BYTES


def test_all_output_of_a_run_is_there_when_the_run_is_over(store: Store, live: LiveOutput) -> None:
    """Its commit comes next, and may end the job that somebody waits for."""
    with live.of(JOB, "a") as echo:
        echo("stdout", b"last words")
    assert texts(store) == ["last words"]


def test_the_newest_output_of_a_job_is_kept(store: Store) -> None:
    live = LiveOutput(store, kept_bytes=10)
    with live.of(JOB, "a") as echo:
        for number in range(5):
            echo("stdout", b"%d..." % number)
            live.write_pending()
    assert texts(store) == ["3...", "4..."]


def test_nothing_is_kept_when_live_output_is_off(store: Store) -> None:
    live = LiveOutput(store, kept_bytes=0)
    with live.of(JOB, "a") as echo:
        echo("stdout", b"secret")
    live.write_pending()
    assert texts(store) == []


def test_output_after_the_end_of_the_job_lives_as_long_as_its_record(store: Store, live: LiveOutput) -> None:
    store.client.hset(store.keys.job(JOB), "status", "completed")
    with live.of(JOB, "a") as echo:
        echo("stdout", b"late")
    live.write_pending()
    assert texts(store) == ["late"]
    assert 0 < store.client.ttl(store.keys.logs(JOB)) <= 100


@pytest.mark.parametrize(("status", "keep_s"), [("running", 100), ("running", 0), ("completed", 0)])
def test_output_of_a_live_job_or_one_kept_for_ever_does_not_expire(store: Store, status: str, keep_s: int) -> None:
    store.client.hset(store.keys.job(JOB), "status", status)
    kept = Store(store.settings.model_copy(update={"retention_seconds": keep_s}))
    with LiveOutput(kept, kept_bytes=100).of(JOB, "a") as echo:
        echo("stdout", b"here")
    assert texts(store) == ["here"]
    assert store.client.ttl(store.keys.logs(JOB)) == -1
    kept.client.close()


def test_output_of_a_deleted_job_leaves_no_key(store: Store, live: LiveOutput) -> None:
    with live.of("gone", "a") as echo:
        echo("stdout", b"late")
    live.write_pending()
    assert not store.client.exists(store.keys.logs("gone"), store.keys.job("gone"))


def test_output_between_two_writes_takes_little_memory(store: Store, live: LiveOutput) -> None:
    piece = b"x" * HALF_BYTES
    tracemalloc.start()
    with live.of(JOB, "a") as echo:
        for _ in range(500):
            echo("stdout", piece)
        _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50 * HALF_BYTES
    assert live._streams == []


def test_a_run_is_not_over_before_its_output_is_written(
    store: Store, live: LiveOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the thread that writes has taken it already, and has not come to an end."""
    log, begun, goes_on = store.scripts.log, threading.Event(), threading.Event()

    def slow(*args: Any) -> None:
        begun.set()
        assert goes_on.wait(30)
        log(*args)

    monkeypatch.setattr(store.scripts, "log", slow)
    with live.of(JOB, "a") as echo:
        echo("stdout", b"last words")
        assert begun.wait(30)
        threading.Timer(0.2, goes_on.set).start()
    assert texts(store) == ["last words"]


def test_an_unreachable_store_loses_output_but_fails_no_run(
    own_server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    away = Store(Settings(redis_url=own_server.url), retries=0)
    own_server.stop()
    with LiveOutput(away, kept_bytes=1 << 20).of(JOB, "a") as echo:
        echo("stdout", b"lost")
    assert "job j: some live output was not written and is lost" in caplog.text
