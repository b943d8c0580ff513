"""Which task stands still: one that is at the same step of the worker's own for many looks, while the store answers."""

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
from mirrorneuron.settings import Settings
from tests.support.graphs import agent, executor, fan, job_ref, line, manifest, single, until_there
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers import runtime as runtime_module
from workers.recovery import task_watchdog
from workers.recovery.task_watchdog import PATIENCE, TaskWatchdog
from workers.runtime import Runtime
from workers.tasks import app, open_job
from workers.visit import Start, visit


class Tasks:
    """The tasks of this thread."""

    def __init__(self) -> None:
        self.store_answers = True
        self.here = threading.get_ident()
        self.watch = TaskWatchdog(lambda: self.store_answers)

    def looks(self, count: int) -> list[int | None]:
        return [self.watch.look() for _ in range(count)]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tasks]:
    monkeypatch.setattr(task_watchdog, "INTERVAL_S", 1e6)  # the thread never looks: the test does
    found = Tasks()
    found.watch.begin()
    yield found
    found.watch.over()


QUIET = [None] * PATIENCE


def test_a_step_that_lasts_for_many_looks_is_a_standstill(tasks: Tasks) -> None:
    assert tasks.looks(PATIENCE + 1) == [*QUIET, tasks.here]


def test_a_task_that_gets_on_does_not_stand_still(tasks: Tasks) -> None:
    for _ in range(3):
        assert tasks.looks(PATIENCE) == QUIET
        tasks.watch.next_step()
    tasks.watch.over()
    tasks.watch.begin()
    assert tasks.looks(PATIENCE) == QUIET


def test_code_of_the_bundle_may_take_as_long_as_it_likes(tasks: Tasks) -> None:
    with tasks.watch.elsewhere():
        assert not any(tasks.looks(3 * PATIENCE))
    assert tasks.looks(PATIENCE + 1) == [*QUIET, tasks.here]


def test_a_store_that_is_away_explains_it(tasks: Tasks) -> None:
    tasks.looks(PATIENCE)
    tasks.store_answers = False
    assert not any(tasks.looks(3 * PATIENCE))
    tasks.store_answers = True
    assert not any(tasks.looks(PATIENCE - 1))
    assert tasks.here in tasks.looks(2)


def test_without_a_task_nothing_stands_still(tasks: Tasks) -> None:
    tasks.watch.over()
    tasks.watch.next_step()
    with tasks.watch.elsewhere():
        pass
    assert not any(tasks.looks(3 * PATIENCE))


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """A namespace that nobody serves."""
    name = f"standstill-{secrets.token_hex(4)}"
    return Settings(redis_url=redis_url, redis_namespace=name, temp_dir=tmp_path / "temp")


@pytest.fixture
def runtime(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """What this process holds as a worker, with nobody to look at its tasks but the test."""
    monkeypatch.setattr(task_watchdog, "INTERVAL_S", 1e6)
    monkeypatch.setattr(runtime_module, "_runtimes", {})
    return runtime_module.runtime(settings)


def test_a_worker_that_has_done_its_task_stands_nowhere(
    settings: Settings, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker would end otherwise."""
    monkeypatch.setitem(app.conf, "mirrorneuron_settings", settings)
    client = Client(settings)
    job = job_ref(client, client.run_manifest(line(3)))
    begun: list[bool] = []
    begin = runtime.task_watchdog.begin
    monkeypatch.setattr(runtime.task_watchdog, "begin", lambda: begun.append(begin() is None))
    open_job.apply(args=job).get()
    assert (begun, client.inspect_job(job.job_id)["status"]) == ([True], "completed")
    assert not any(runtime.task_watchdog.look() for _ in range(3 * PATIENCE))


def test_each_announcement_is_a_step(settings: Settings, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away may take its time over each of them."""
    client = Client(settings)
    leaves = [executor(pool, "true", output_message_type="done", pool=pool) for pool in ("one", "other")]
    job = job_ref(client, client.run_manifest(fan(leaves, "done")))
    found: list[int | None] = []
    publish = Chains.publish

    def slow(*args: Any, **kwargs: Any) -> None:
        found.extend(runtime.task_watchdog.look() for _ in range(PATIENCE))
        publish(*args, **kwargs)

    monkeypatch.setattr(Chains, "publish", slow)
    runtime.task_watchdog.begin()
    visit(runtime, make_app(settings), job, None, Start(opening=True))
    runtime.task_watchdog.over()
    assert found == [None] * (2 * PATIENCE)
    client.cleanup_jobs(all=True)


@pytest.mark.parametrize("kind", ["command", "module"])
def test_a_run_may_take_as_long_as_it_likes(settings: Settings, runtime: Runtime, tmp_path: Path, kind: str) -> None:
    client, app = Client(settings), make_app(settings)
    script = f"touch {tmp_path}/begun; {until_there(tmp_path / 'gate')}"
    job = job_ref(client, client.run_manifest(long_run(kind, tmp_path, script)))

    def work() -> None:
        for start in (Start(opening=True), Start(pool="default")):
            runtime.task_watchdog.begin()
            visit(runtime, app, job, None, start)
            runtime.task_watchdog.over()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    wait_until((tmp_path / "begun").exists)
    found = [runtime.task_watchdog.look() for _ in range(3 * PATIENCE)]
    (tmp_path / "gate").touch()
    worker.join(60)
    assert client.inspect_job(job.job_id)["status"] == "completed"
    assert not any(found)


def long_run(kind: str, folder: Path, script: str) -> Any:
    """A bundle of one agent that runs a line of shell, and completes the job."""
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


def test_a_store_that_does_not_answer_is_asked_and_explains_it(
    own_server: ValkeyServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_watchdog, "INTERVAL_S", 1e6)
    runtime = Runtime(settings.model_copy(update={"redis_url": own_server.url}), "worker@test")
    runtime.task_watchdog.begin()
    assert not any(runtime.task_watchdog.look() for _ in range(PATIENCE))
    own_server.stop()
    assert runtime.task_watchdog.look() is None
    own_server.start()
    assert not any(runtime.task_watchdog.look() for _ in range(PATIENCE))
    assert runtime.task_watchdog.look() == threading.get_ident()
    runtime.task_watchdog.over()
