"""A worker that has stopped consuming exits; a worker with nothing to consume, or no room for a task, does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import UNREACHABLE
from mirrorneuron.store.job_store import Store
from tests.support.graphs import line
from tests.support.node import ROOT, environment
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.recovery.consumer_watchdog import EXIT_CODE, ConsumerStall, ConsumerWatchdog


class Worker:
    """The worker that a `ConsumerStall` checks."""

    def __init__(self) -> None:
        self.queued, self.room, self.broker_available = 0, True, True
        self.stall = ConsumerStall(self._queued, lambda: self.room, limit=3)

    def _queued(self) -> int:
        if not self.broker_available:
            raise ConnectionError
        return self.queued

    def checks(self, count: int) -> list[bool]:
        return [self.stall.check() for _ in range(count)]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_worker_that_leaves_tasks_queued_beside_a_free_slot_is_stalled_after_some_checks(worker: Worker) -> None:
    worker.queued = 2
    assert worker.checks(3) == [False, False, True]


def test_a_worker_that_receives_a_task_now_and_then_is_not_stalled(worker: Worker) -> None:
    worker.queued = 2
    for _ in range(3):
        assert worker.checks(2) == [False, False]
        worker.stall.task_received()
        assert worker.checks(1) == [False]


@pytest.mark.parametrize(("queued", "room"), [(0, True), (2, False)])
def test_a_worker_without_queued_tasks_or_without_room_is_not_stalled(worker: Worker, queued: int, room: bool) -> None:
    worker.queued, worker.room = queued, room
    assert not any(worker.checks(9))


def test_a_check_that_fails_starts_the_count_again(worker: Worker) -> None:
    """A worker whose broker is unavailable is not stalled."""
    worker.queued = 2
    assert worker.checks(2) == [False, False]
    worker.broker_available = False
    with pytest.raises(ConnectionError):
        worker.checks(1)
    worker.broker_available = True
    assert worker.checks(3) == [False, False, True]


def test_tasks_on_a_server_that_refuses_writes_do_not_count_as_queued(own_server: ValkeyServer) -> None:
    """Such a server reports its queue lengths, but a worker cannot consume from it."""
    settings = Settings(redis_url=own_server.url)
    client, store, app = Client(settings), Store(settings), make_app(settings)
    client.run_manifest(line(2))
    watchdog = ConsumerWatchdog(SimpleNamespace(app=app), 0, store.check_writes)
    assert watchdog._queued() == 1
    own_server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(UNREACHABLE):
        watchdog._queued()
    own_server.client.execute_command("REPLICAOF", "NO", "ONE")
    assert watchdog._queued() == 1
    app.close()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(redis_url=redis_url, redis_namespace=f"stall-{tmp_path.name}"[:64], temp_dir=tmp_path / "temp")


@pytest.fixture
def celery_worker(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker that can be stopped from consuming."""
    words = [sys.executable, "-m", "celery", "-A", "tests.support.stalling", "worker", "-P", "solo", "-n", "stall@test"]
    words += ["-Q", queue(settings.redis_namespace, LIGHT), "--without-gossip", "--without-mingle"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=ROOT, env=environment(settings), stdout=log, stderr=log)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("command", ["block_event_loop", "stop_consuming", "lose_queues"])
def test_a_stalled_worker_exits_with_a_code_that_has_it_restarted(
    settings: Settings, celery_worker: subprocess.Popen[bytes], tmp_path: Path, command: str
) -> None:
    client, app = Client(settings), make_app(settings)
    _, job = client.run_manifest(line(2), await_=True, timeout=60_000)
    assert job["status"] == "completed"
    trace = tmp_path / "trace"
    app.control.broadcast(command, arguments={"trace": str(trace)}, destination=["stall@test"])
    wait_until(trace.exists)
    job_id = client.run_manifest(line(2))
    wait_until(lambda: celery_worker.poll() is not None, timeout=60)
    assert celery_worker.returncode == EXIT_CODE
    assert "none was received; the worker exits" in (tmp_path / "log").read_text()
    assert client.inspect_job(job_id)["status"] == "pending"
    client.cleanup_jobs(all=True)
    app.close()
