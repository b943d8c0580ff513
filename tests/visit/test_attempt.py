"""One attempt: the limits of a node for the attempts of one message, and the run of one that lost its worker."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from mirrorneuron.api.client import Client
from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.plan import make_plan
from mirrorneuron.message import decode
from mirrorneuron.settings import Settings
from mirrorneuron.store.protocol import Claim, JobRef
from tests.support.graphs import executor, fan, manifest
from tests.support.waiting import wait_until
from workers import attempt as attempt_module
from workers import runtime as runtime_module
from workers.agents.draft import Draft, StepContext
from workers.agents.failures import RunFailed
from workers.attempt import OtherNodes, _retry_or_fail
from workers.runners.command import MARKER, cluster_of
from workers.runtime import Runtime
from workers.visit import Start, visit


@pytest.mark.parametrize(
    ("failed", "most", "retried", "note"),
    [(1, 3, True, False), (2, 3, False, True), (8, 1000, True, False), (9, 1000, False, False)],
)
def test_a_node_may_allow_fewer_attempts_than_a_bundle_asks_for(
    redis_url: str, tmp_path: Path, failed: int, most: int, retried: bool, note: bool
) -> None:
    elsewhere = OtherNodes(Runtime(Settings(redis_url=redis_url, temp_dir=tmp_path), "one@test"), "default", 1)
    plan = make_plan(load(manifest([executor("work", "true", max_attempts=10)], [])).manifest)
    draft = Draft(
        plan.nodes["work"], Claim("work", b"", 0, failed, 0, ()), StepContext("t", 0, lambda: 0, ("work",), 10_000)
    )
    step = _retry_or_fail(draft, RunFailed("it broke"), ("released", {}), elsewhere, most)
    assert (step.end is None) is retried
    if step.end:
        error = decode(step.end.result)["error"]
        assert error.startswith("it broke")
        assert ("this node allows MIRROR_NEURON_MAX_ATTEMPTS=3" in error) is note


def test_a_message_that_lost_its_worker_runs_alone(
    settings: Settings, app: Celery, heavy: Callable[..., JobRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be what killed the worker. Its next worker takes no other run along, and only that death counts."""
    monkeypatch.setattr(runtime_module, "_concurrency", 2)
    runtime = Runtime(settings.model_copy(update={"executor_pool_capacities": {"default": 2}}), "two@test")
    job, store = heavy(fan([executor("a", "true", output_message_type="done")], "done")), runtime.store
    agent = store.keys.agent(job.job_id, "a")
    store.client.hset(agent, "losses", 1)
    mark = f"{cluster_of(settings)}:dead@host:{job.job_id}:"
    left, other = (subprocess.Popen(["sleep", "600"], env={MARKER: mark + name}) for name in ("a", "ab"))
    with runtime.slots("default").taken(1, lambda: None):
        thread = threading.Thread(target=visit, args=(runtime, app, job, None, Start(pool="default")), daemon=True)
        thread.start()
        wait_until(lambda: runtime.slots("default").in_use() == 2)  # the run waits with one slot for the other
        assert store.client.hmget(agent, "alone", "losses") == [None, b"1"]
    thread.join(30)
    while Client(settings).inspect_job(job.job_id)["status"] == "running":  # a slice of time was over
        visit(runtime, app, job, None, Start())
    assert Client(settings).inspect_job(job.job_id)["status"] == "completed"
    assert store.client.hget(agent, "alone")
    assert left.wait(30) == -signal.SIGKILL, "what the dead worker had left does not run beside the second run"
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_message_that_lost_its_worker_runs_beside_a_long_run_in_the_end(
    settings: Settings, app: Celery, heavy: Callable[..., JobRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for all slots it holds up every other run. If it loses its worker then, that counts less."""
    monkeypatch.setattr(runtime_module, "_concurrency", 2)
    monkeypatch.setattr(attempt_module, "ALONE_S", 0.05)
    runtime = Runtime(settings.model_copy(update={"executor_pool_capacities": {"default": 2}}), "two@test")
    job, store = heavy(fan([executor("a", "true", output_message_type="done")], "done")), runtime.store
    agent = store.keys.agent(job.job_id, "a")
    store.client.hset(agent, "losses", 1)
    with runtime.slots("default").taken(1, lambda: None):
        visit(runtime, app, job, None, Start(pool="default"))
    while Client(settings).inspect_job(job.job_id)["status"] == "running":  # a slice of time was over
        visit(runtime, app, job, None, Start())
    assert Client(settings).inspect_job(job.job_id)["status"] == "completed"
    assert store.client.hget(agent, "alone") is None
