"""A worker that lives and takes nothing ends by itself; one that has a reason does not."""

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
from mirrorneuron.store.connection import AWAY
from mirrorneuron.store.job_store import Store
from tests.support.graphs import line
from tests.support.node import ROOT, environment
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.recovery.consumer_watchdog import EXIT_CODE, ConsumerStall, ConsumerWatchdog


class Worker:
    """What `ConsumerStall` asks about."""

    def __init__(self) -> None:
        self.waiting, self.room, self.away = 0, True, False
        self.deafness = ConsumerStall(self._queued, lambda: self.room, patience=3)

    def _queued(self) -> int:
        if self.away:
            raise ConnectionError
        return self.waiting

    def looks(self, count: int) -> list[bool]:
        return [self.deafness.look() for _ in range(count)]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_mail_that_waits_beside_a_free_slot_is_deafness_after_some_looks(worker: Worker) -> None:
    worker.waiting = 2
    assert worker.looks(3) == [False, False, True]


def test_a_worker_that_takes_something_now_and_then_is_not_deaf(worker: Worker) -> None:
    worker.waiting = 2
    for _ in range(3):
        assert worker.looks(2) == [False, False]
        worker.deafness.heard()
        assert worker.looks(1) == [False]


@pytest.mark.parametrize(("waiting", "room"), [(0, True), (2, False)])
def test_with_nothing_to_take_or_no_room_for_it_nobody_is_deaf(worker: Worker, waiting: int, room: bool) -> None:
    worker.waiting, worker.room = waiting, room
    assert not any(worker.looks(9))


def test_a_look_that_fails_ends_the_row(worker: Worker) -> None:
    """Nobody is deaf to a broker that is away."""
    worker.waiting = 2
    assert worker.looks(2) == [False, False]
    worker.away = True
    with pytest.raises(ConnectionError):
        worker.looks(1)
    worker.away = False
    assert worker.looks(3) == [False, False, True]


def test_mail_on_a_server_that_takes_no_writes_does_not_count_as_waiting(own_server: ValkeyServer) -> None:
    """It tells how much there is, and lets nobody take it."""
    settings = Settings(redis_url=own_server.url)
    client, store, app = Client(settings), Store(settings), make_app(settings)
    client.run_manifest(line(2))
    watch = ConsumerWatchdog(SimpleNamespace(app=app), 0, store.check_writes)
    assert watch._queued() == 1
    own_server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(AWAY):
        watch._queued()
    own_server.client.execute_command("REPLICAOF", "NO", "ONE")
    assert watch._queued() == 1
    app.close()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(redis_url=redis_url, redis_namespace=f"deaf-{tmp_path.name}"[:64], temp_dir=tmp_path / "temp")


@pytest.fixture
def celery_worker(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker that can be made deaf."""
    words = [sys.executable, "-m", "celery", "-A", "tests.support.deaf", "worker", "-P", "solo", "-n", "deaf@test"]
    words += ["-Q", queue(settings.redis_namespace, LIGHT), "--without-gossip", "--without-mingle"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=ROOT, env=environment(settings), stdout=log, stderr=log)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("command", ["become_deaf", "stop_listening"])
def test_a_deaf_worker_ends_with_a_code_that_has_it_restarted(
    settings: Settings, celery_worker: subprocess.Popen[bytes], tmp_path: Path, command: str
) -> None:
    client, app = Client(settings), make_app(settings)
    _, job = client.run_manifest(line(2), await_=True, timeout=60_000)
    assert job["status"] == "completed"
    trace = tmp_path / "trace"
    app.control.broadcast(command, arguments={"trace": str(trace)}, destination=["deaf@test"])
    wait_until(trace.exists)
    job_id = client.run_manifest(line(2))
    wait_until(lambda: celery_worker.poll() is not None, timeout=60)
    assert celery_worker.returncode == EXIT_CODE
    assert "none was taken: this worker ends" in (tmp_path / "log").read_text()
    assert client.inspect_job(job_id)["status"] == "pending"
    client.cleanup_jobs(all=True)
    app.close()
