"""A task is stuck if many checks find it at the same step of the worker while the store is available."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.pools import LIGHT
from mirrorneuron.settings import Settings
from tests.support.graphs import agent, executor, fan, job_ref, line, manifest, single, until_there
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers import runtime as runtime_module
from workers.recovery import task_watchdog
from workers.recovery.task_watchdog import STUCK_CHECKS, TaskWatchdog
from workers.runtime import Runtime
from workers.tasks import app, open_job
from workers.visit import Start, visit


class Tasks:
    """The tasks of this thread."""

    def __init__(self) -> None:
        self.store_available = True
        self.here = threading.get_ident()
        self.watchdog = TaskWatchdog(lambda: self.store_available)

    def checks(self, count: int) -> list[int | None]:
        return [self.watchdog.check() for _ in range(count)]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tasks]:
    monkeypatch.setattr(task_watchdog, "INTERVAL_S", 1e6)  # the thread never checks: the test does
    found = Tasks()
    found.watchdog.begin()
    yield found
    found.watchdog.end()


NOT_STUCK = [None] * STUCK_CHECKS


def test_a_task_at_the_same_step_for_many_checks_is_stuck(tasks: Tasks) -> None:
    assert tasks.checks(STUCK_CHECKS + 1) == [*NOT_STUCK, tasks.here]


def test_a_task_that_makes_progress_is_not_stuck(tasks: Tasks) -> None:
    for _ in range(3):
        assert tasks.checks(STUCK_CHECKS) == NOT_STUCK
        tasks.watchdog.next_step()
    tasks.watchdog.end()
    tasks.watchdog.begin()
    assert tasks.checks(STUCK_CHECKS) == NOT_STUCK


def test_a_suspended_task_is_not_stuck(tasks: Tasks) -> None:
    with tasks.watchdog.suspended():
        assert not any(tasks.checks(3 * STUCK_CHECKS))
    assert tasks.checks(STUCK_CHECKS + 1) == [*NOT_STUCK, tasks.here]


def test_no_task_is_stuck_while_the_store_is_unavailable(tasks: Tasks) -> None:
    tasks.checks(STUCK_CHECKS)
    tasks.store_available = False
    assert not any(tasks.checks(3 * STUCK_CHECKS))
    tasks.store_available = True
    assert not any(tasks.checks(STUCK_CHECKS - 1))
    assert tasks.here in tasks.checks(2)


def test_a_thread_without_a_task_is_not_stuck(tasks: Tasks) -> None:
    tasks.watchdog.end()
    tasks.watchdog.next_step()
    with tasks.watchdog.suspended():
        pass
    assert not any(tasks.checks(3 * STUCK_CHECKS))


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """A namespace without workers."""
    name = f"watchdog-{secrets.token_hex(4)}"
    return Settings(redis_url=redis_url, redis_namespace=name, temp_dir=tmp_path / "temp")


@pytest.fixture
def runtime(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """The runtime of this process as a worker, whose tasks only the test checks."""
    monkeypatch.setattr(task_watchdog, "INTERVAL_S", 1e6)
    monkeypatch.setattr(runtime_module, "_runtimes", {})
    return runtime_module.runtime(settings)


def test_a_finished_task_is_no_longer_watched(
    settings: Settings, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an idle worker would exit."""
    monkeypatch.setattr(app, "settings", settings)
    client = Client(settings)
    job = job_ref(client, client.run_manifest(line(3)))
    begun: list[bool] = []
    begin = runtime.task_watchdog.begin
    monkeypatch.setattr(runtime.task_watchdog, "begin", lambda: begun.append(begin() is None))
    open_job.apply(args=[*job, LIGHT]).get()
    assert (begun, client.inspect_job(job.job_id)["status"]) == ([True], "completed")
    assert not any(runtime.task_watchdog.check() for _ in range(3 * STUCK_CHECKS))


def test_each_announcement_counts_as_progress(
    settings: Settings, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable broker may block each of them for a while."""
    client = Client(settings)
    leaves = [executor(pool, "true", output_message_type="done", pool=pool) for pool in ("one", "other")]
    job = job_ref(client, client.run_manifest(fan(leaves, "done")))
    found: list[int | None] = []
    publish = Chains.publish

    def slow(*args: Any, **kwargs: Any) -> None:
        found.extend(runtime.task_watchdog.check() for _ in range(STUCK_CHECKS))
        publish(*args, **kwargs)

    monkeypatch.setattr(Chains, "publish", slow)
    runtime.task_watchdog.begin()
    visit(runtime, make_app(settings), job, None, Start(opening=True))
    runtime.task_watchdog.end()
    assert found == [None] * (2 * STUCK_CHECKS)
    client.cleanup_jobs(all=True)


@pytest.mark.parametrize("kind", ["command", "module"])
def test_a_run_of_any_length_is_not_stuck(settings: Settings, runtime: Runtime, tmp_path: Path, kind: str) -> None:
    client, app = Client(settings), make_app(settings)
    script = f"touch {tmp_path}/begun; {until_there(tmp_path / 'gate')}"
    job = job_ref(client, client.run_manifest(long_run(kind, tmp_path, script)))

    def work() -> None:
        for start in (Start(opening=True), Start(pool="default")):
            runtime.task_watchdog.begin()
            visit(runtime, app, job, None, start)
            runtime.task_watchdog.end()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    wait_until((tmp_path / "begun").exists)
    found = [runtime.task_watchdog.check() for _ in range(3 * STUCK_CHECKS)]
    (tmp_path / "gate").touch()
    worker.join(60)
    assert client.inspect_job(job.job_id)["status"] == "completed"
    assert not any(found)


def long_run(kind: str, folder: Path, script: str) -> Any:
    """A bundle of one agent that runs a line of shell and completes the job."""
    if kind == "command":
        return single(script)
    bundle = folder / "bundle"
    (bundle / "payloads").mkdir(parents=True)
    lines = ("import subprocess", "from mirrorneuron import Agent", "class It(Agent):")
    handle = f"    def handle(self, message, context):\n        subprocess.run({script!r}, shell=True, check=True)"
    source = "\n".join((*lines, handle, "        context.complete_job(1)"))
    (bundle / "payloads" / "agent.py").write_text(source)
    graph = manifest([agent("work", "module", module="agent:It", module_source="agent.py")])
    (bundle / "manifest.json").write_text(json.dumps(graph))
    return bundle


def test_no_task_is_stuck_while_the_server_is_stopped(
    own_server: ValkeyServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_watchdog, "INTERVAL_S", 1e6)
    runtime = Runtime(settings.model_copy(update={"redis_url": own_server.url}), "worker@test")
    runtime.task_watchdog.begin()
    assert not any(runtime.task_watchdog.check() for _ in range(STUCK_CHECKS))
    own_server.stop()
    assert runtime.task_watchdog.check() is None
    own_server.start()
    assert not any(runtime.task_watchdog.check() for _ in range(STUCK_CHECKS))
    assert runtime.task_watchdog.check() == threading.get_ident()
    runtime.task_watchdog.end()
