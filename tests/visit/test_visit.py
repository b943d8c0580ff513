"""One task's visit to a job, in this process: claims, announcements, and the stop of the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
from celery import Celery

from mirrorneuron.api.client import Client
from mirrorneuron.bundle.manifest import AgentType
from mirrorneuron.errors import PayloadTooLarge
from mirrorneuron.message import Message
from mirrorneuron.pools import queue
from mirrorneuron.settings import Settings
from mirrorneuron.store.protocol import JobRef, ReplyCode
from mirrorneuron.store.server_clock import ServerClock
from tests.support.graphs import collector, executor, fan, job_ref, line, manifest, processed, router, single
from tests.support.waiting import wait_until
from tests.visit.conftest import queued
from workers import attempt as attempt_module
from workers import visit as visit_module
from workers.attempt import attempt as run_attempt
from workers.lifecycle.shutdown import Stop
from workers.runtime import Runtime
from workers.visit import SLICE_S, Start, visit


@pytest.mark.parametrize(("graph", "pool"), [(line(3), "light"), (single("true"), "default")])
def test_claims_are_renewed_until_the_commit_is_done(
    settings: Settings, runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch, graph: Any, pool: str
) -> None:
    """A large commit takes time to send. Without a renewal its claims would expire and count as a loss."""
    client = Client(settings)
    job = job_ref(client, client.run_manifest(graph))
    commit, claims = runtime.store.scripts.commit, f"{runtime.store.keys.job(job.job_id)}:claims"
    renewed: list[bool] = []

    def leases() -> dict[bytes, float]:
        return dict(runtime.store.client.zrange(claims, 0, -1, withscores=True))

    def slow(*args: Any, **more: Any) -> Any:
        before = leases()
        wait_until(lambda: all(end > before[agent] for agent, end in leases().items()))
        renewed.append(bool(before))
        return commit(*args, **more)

    monkeypatch.setattr(runtime.store.scripts, "commit", slow)
    visit(runtime, app, job, None, Start(opening=True))
    if pool != "light":
        visit(runtime, app, job, None, Start(pool=pool))
    assert client.inspect_job(job.job_id)["status"] == "completed"
    assert renewed
    assert all(renewed)


def test_mail_that_arrives_during_a_claim_is_not_overtaken_by_inline_mail(
    settings: Settings, runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is refused and repeated without inline mail; no message is lost, and the visit continues."""
    client, scripts = Client(settings), runtime.store.scripts
    graph = line(3)
    graph["nodes"][-1]["config"]["complete_after"] = 2
    job = job_ref(client, client.run_manifest(graph))
    words: list[Any] = []
    commit = scripts.commit

    def late(*args: Any, **more: Any) -> Any:
        if not words:
            client.send_message(job.job_id, "r1", {"body": "from outside"})
        reply = commit(*args, **more)
        words.append(reply.word)
        return reply

    monkeypatch.setattr(scripts, "commit", late)
    visit(runtime, app, job, None, Start(opening=True))
    assert words[0] is ReplyCode.MOVED
    result = client.inspect_job(job.job_id)["result"]
    assert result is not None
    assert result["output"]["messages"] == ["from outside", {}]


def test_an_ended_job_is_soon_removed_from_the_live_index(settings: Settings, runtime: Runtime, app: Celery) -> None:
    """No sweeper runs here."""
    client = Client(settings)
    job = job_ref(client, client.run_manifest(line(3)))
    visit(runtime, app, job, None, Start(opening=True))
    wait_until(lambda: not runtime.store.index.live())
    assert client.inspect_job(job.job_id)["status"] == "completed"


def three(script: str = "true") -> Any:
    """A fan of three executors."""
    return fan([executor(name, script, output_message_type="done") for name in "abc"], "done")


def test_ready_agents_are_announced_before_a_run_begins(
    runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch, heavy: Callable[..., JobRef]
) -> None:
    """By one successor in the queue, so that free slots do not wait for a long command."""
    job, commit, depths = heavy(three()), runtime.store.scripts.commit, []

    def observed(*args: Any, **more: Any) -> Any:
        depths.append(queued(runtime, "default"))
        return commit(*args, **more)

    monkeypatch.setattr(runtime.store.scripts, "commit", observed)
    visit(runtime, app, job, None, Start(pool="default"))
    assert depths[0] == 1


def test_light_agents_that_a_long_run_made_ready_run_in_the_same_task(
    settings: Settings, runtime: Runtime, app: Celery, heavy: Callable[..., JobRef]
) -> None:
    """Although the time slice of the task is over."""
    leaf = executor("a", f"sleep {3 * SLICE_S}", output_message_type="done")
    job = heavy(fan([leaf], "done"))
    visit(runtime, app, job, None, Start(pool="default"))
    assert Client(settings).inspect_job(job.job_id)["status"] == "completed"


def test_a_failed_attempt_announces_the_next_one(settings: Settings, runtime: Runtime, app: Celery) -> None:
    """The delayed task is in the queue and does not need a sweep."""
    client = Client(settings)
    job = job_ref(client, client.run_manifest(single("false", max_attempts=2)))
    runtime.store.client.delete(queue(settings.redis_namespace, "default"))
    visit(runtime, app, job, None, Start(pool="default", opening=True))
    assert queued(runtime, "default") == 1


def test_a_task_that_comes_while_the_worker_stops_only_re_announces(
    settings: Settings, runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch, heavy: Callable[..., JobRef]
) -> None:
    job, stop = heavy(three()), Stop()
    monkeypatch.setattr(visit_module, "STOP", stop)
    stop.begun.set()
    for number, start in enumerate((Start(pool="default"), Start(pool="default", agent="a")), start=1):
        visit(runtime, app, job, None, start)
        assert queued(runtime, "default") == number
    assert processed(Client(settings), job.job_id) == {"spread": 1, "a": 0, "b": 0, "c": 0, "all": 0}


def test_a_worker_that_stops_during_a_run_claims_nothing_more(
    settings: Settings, runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch, heavy: Callable[..., JobRef]
) -> None:
    job, stop, attempt = heavy(three()), Stop(), run_attempt
    monkeypatch.setattr(visit_module, "STOP", stop)

    def last(*args: Any) -> Any:
        stop.begun.set()
        return attempt(*args)

    monkeypatch.setattr(visit_module, "attempt", last)
    visit(runtime, app, job, None, Start(pool="default"))
    done = processed(Client(settings), job.job_id)
    assert (sum(done[name] for name in "abc"), done["all"]) == (1, 0)
    assert queued(runtime, "light") == 1


@pytest.fixture
def waiting(
    runtime: Runtime, app: Celery, heavy: Callable[..., JobRef]
) -> Iterator[tuple[JobRef, threading.Thread, ExitStack]]:
    """A job whose run waits for the worker's only slot, the thread of that run, and the holder of the slot."""
    job = heavy(fan([executor("a", "true", output_message_type="done")], "done"))
    with ExitStack() as slot:
        slot.enter_context(runtime.slots("default").taken(1, lambda: None))
        thread = threading.Thread(target=visit, args=(runtime, app, job, None, Start(pool="default")), daemon=True)
        thread.start()
        wait_until(lambda: runtime.store.client.zcard(runtime.store.keys.claims(job.job_id)))
        yield job, thread, slot
    thread.join(30)


def test_a_run_that_waits_for_a_slot_ends_with_its_job(
    settings: Settings, waiting: tuple[JobRef, threading.Thread, ExitStack]
) -> None:
    job, thread, _ = waiting
    Client(settings).cancel(job.job_id)
    thread.join(30)
    assert not thread.is_alive()


def test_queue_wait_ms_includes_the_wait_for_a_slot(
    settings: Settings, waiting: tuple[JobRef, threading.Thread, ExitStack]
) -> None:
    """It is not only the time until the claim, which is less than the age of the job at the claim."""
    (job, thread, slot), claimed = waiting, time.monotonic()
    client = Client(settings)
    (opened,) = (event for event in client.events(job.job_id) if event["type"] == "job_pending")
    age_s = time.time() - datetime.fromisoformat(opened["timestamp"]).timestamp()
    wait_until(lambda: time.monotonic() > claimed + age_s + 0.1)
    slot.close()
    thread.join(30)
    result = client.inspect_job(job.job_id)["result"]
    assert result is not None
    assert result["output"]["messages"][0]["sandbox"]["lease"]["queue_wait_ms"] > age_s * 1000


@pytest.mark.parametrize("ahead_s", [-7_200, 7_200])
@pytest.mark.parametrize("whose", ["producer", "node"])
def test_a_message_lives_by_the_clock_of_the_server(
    settings: Settings, app: Celery, monkeypatch: pytest.MonkeyPatch, whose: str, ahead_s: int
) -> None:
    """Also if the clock of the producer or of the node is off by two hours."""
    client, wall, wall_ns = Client(settings), time.time, time.time_ns

    def as_seen_by(who: str) -> None:
        off_s = ahead_s if who == whose else 0
        monkeypatch.setattr(time, "time", lambda: wall() + off_s)
        monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + off_s * 10**9)

    as_seen_by("producer")
    graph = line(3) | {"initial_inputs": {"r0": {"ttl_ms": 60_000, "body": {"n": 1}}}}
    job = job_ref(client, client.run_manifest(graph))
    as_seen_by("node")
    here = Runtime(settings, "worker@test")
    visit(here, app, job, None, Start(opening=True))
    while client.inspect_job(job.job_id)["status"] == "running":  # a slice of time was over
        visit(here, app, job, None, Start())
    assert client.dead_letters(job.job_id) == []
    assert client.inspect_job(job.job_id)["status"] == "completed"


def test_a_message_lives_from_the_end_of_the_run_that_emitted_it(
    settings: Settings, runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may last longer than its messages live."""
    now_ms, store = [0], runtime.store
    monkeypatch.setattr(store, "clock", ServerClock(lambda: now_ms[0], valid_s=0))
    handler = attempt_module.HANDLERS[AgentType.EXECUTOR]

    def long(draft: Any, run: Any) -> None:
        now_ms[0] += 3_600_000
        handler(draft, run)

    monkeypatch.setitem(attempt_module.HANDLERS, AgentType.EXECUTOR, long)
    client = Client(settings)
    graph = manifest(
        [executor("work", "true", output_message_type="done"), collector("end")], [("work", "end", "done")]
    )
    job = job_ref(client, client.run_manifest(graph))
    visit(runtime, app, job, None, Start(opening=True))
    visit(runtime, app, job, None, Start(pool="default"))
    while client.inspect_job(job.job_id)["status"] == "running":  # a slice of time was over
        visit(runtime, app, job, None, Start())
    last = store.client.hget(store.keys.agent(job.job_id, "end"), "last")
    assert Message.parse(last).envelope["timestamp"] == "1970-01-01T01:00:00.000Z"


def test_a_run_that_would_fill_the_store_fails_its_job_by_name(
    settings: Settings, runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two edges that lead back to their node double its mail with each run."""
    small = settings.model_copy(update={"max_mail_bytes": 20_000})
    edges = [("a", "b", "go"), ("a", "b", "*"), ("b", "a", "go"), ("b", "a", "*")]
    graph = manifest([router("a"), router("b")], edges, policies={"job_timeout_ms": 600_000})
    client = Client(small)
    job = job_ref(client, client.run_manifest(graph | {"initial_inputs": {"a": [{"n": 1}]}}))
    here = Runtime(small, "worker@test")
    visit(here, app, job, None, Start(opening=True))
    while (found := client.inspect_job(job.job_id))["status"] == "running":
        visit(here, app, job, None, Start())
    assert found["status"] == "failed"
    assert found["result"]["agent_id"] in ("a", "b")
    assert "MIRROR_NEURON_MAX_MAIL_BYTES (20000 bytes)" in found["result"]["error"]
    assert int(here.store.client.hget(here.store.keys.job(job.job_id), "mail_bytes")) <= 20_000


def test_more_than_the_store_may_keep_of_a_job_cannot_be_sent_to_it(settings: Settings) -> None:
    client = Client(settings.model_copy(update={"max_mail_bytes": 3_000}))
    graph = manifest([router("a"), collector("b", 99)], [("a", "b", "go")])
    with pytest.raises(PayloadTooLarge, match=r"initial inputs have .* MIRROR_NEURON_MAX_MAIL_BYTES is 3000"):
        client.run_manifest(graph | {"initial_inputs": {"a": [{"n": "x" * 500}] * 9}})
    job_id = client.run_manifest(graph)
    client.send_message(job_id, "b", {"text": "x" * 2_000})
    with pytest.raises(PayloadTooLarge, match=r"would exceed MIRROR_NEURON_MAX_MAIL_BYTES \(3000 bytes\)"):
        client.send_message(job_id, "b", {"text": "x" * 2_000})
