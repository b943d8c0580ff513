"""A worker's main process forks only while its threads are in the middle of nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.chaos import process_tree
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.pools import queue
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.graphs import line
from tests.support.node import ROOT, environment
from tests.support.waiting import wait_until
from workers.lifecycle.fork_guard import FORKS
from workers.recovery.sweeper import Sweeper


class Thread:
    """Holds a lock during its work until released, like an import."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.works, self.goes_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        assert self.works.wait(30)

    def _work(self) -> None:
        with FORKS.held_off():
            with self.lock:
                self.works.set()
                self.goes_on.wait()
            FORKS.give_way()
            with self.lock:
                pass

    def end(self) -> None:
        self.goes_on.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def forked_with(lock: threading.Lock) -> bool:
    """Fork; return True if *lock* is held in the child, where no thread can release it."""
    child = os.fork()
    if not child:
        os._exit(lock.locked())
    return bool(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_a_fork_waits_for_working_threads() -> None:
    busy = Thread()

    def go_on() -> None:
        wait_until(lambda: FORKS.waiting)
        busy.goes_on.set()

    beside = threading.Thread(target=go_on, daemon=True)
    beside.start()
    assert not forked_with(busy.lock)
    busy.end()
    beside.join(30)


def test_work_that_has_not_begun_waits_for_a_fork() -> None:
    """Else threads that take turns would hold it off for ever."""
    busy, begun = Thread(), []

    def begin() -> None:
        wait_until(lambda: FORKS.waiting)
        threading.Timer(0.05, busy.goes_on.set).start()
        with FORKS.held_off():
            begun.append(FORKS.waiting)

    beside = threading.Thread(target=begin, daemon=True)
    beside.start()
    assert not forked_with(busy.lock)
    beside.join(30)
    assert begun == [False]
    busy.end()


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(FORKS, "patience_s", 0.01)
    busy = Thread()
    assert forked_with(busy.lock)
    assert "forking a process while 1 threads are working" in caplog.text
    busy.end()


def test_a_forked_child_can_fork_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORKS, "patience_s", 0.01)
    busy = Thread()
    child = os.fork()
    if not child:
        with FORKS.held_off():
            pass
        os._exit(forked_with(threading.Lock()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    busy.end()


@pytest.fixture(scope="module")
def settings(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("forking")
    return Settings(redis_url=redis_url, redis_namespace=folder.name, temp_dir=folder / "temp")


class StoppingWorker:
    """A real worker with one pool process, whose threads stop in the middle of their work when they are asked to."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        words = [sys.executable, "-m", "celery", "-A", "tests.support.forking", "worker", "-P", "prefork", "-c", "1"]
        words += ["-Q", queue(settings.redis_namespace, "default"), "-l", "INFO"]
        words += ["--without-gossip", "--without-mingle"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env={**environment(settings), "FORKING": str(folder)}, stdout=log, stderr=log
            )

    def is_ready(self) -> bool:
        return " ready." in self.log.read_text()

    def child(self) -> int:
        """The process of its pool."""
        (child,) = wait_until(lambda: process_tree.beneath(self.process.pid))
        return child.pid

    def forked_while(self, part: str) -> str:
        """Have a thread stop in the middle, and a process forked then; say when that was."""
        for name in ("middle", "forked"):
            (self.folder / name).unlink(missing_ok=True)
        child = self.child()
        (self.folder / part).touch()
        wait_until((self.folder / "middle").exists)
        process_tree.kill(child)
        wait_until((self.folder / "forked").exists)
        return (self.folder / "forked").read_text()


@pytest.fixture(scope="module")
def stopping(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoppingWorker]:
    worker = StoppingWorker(tmp_path_factory.mktemp("stopping"), settings)
    try:
        wait_until(worker.is_ready, timeout=60)
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


@pytest.mark.parametrize("part", ["heartbeat", "sweeper", "watch"])
def test_no_pool_process_is_forked_while_a_thread_works(stopping: StoppingWorker, part: str) -> None:
    assert stopping.forked_while(part) == "in between"


def test_a_fork_waits_for_one_page_of_jobs_but_not_for_a_whole_sweep(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot of a process that has died is empty until then, and a sweep of many jobs takes its time."""
    client = Client(settings.model_copy(update={"redis_namespace": f"{settings.redis_namespace}-sweep"}))
    for _ in range(2):
        client.run_manifest(line(2))
    store = Store(client.settings)
    sweeper = Sweeper(store, make_app(client.settings), lambda digest: store.plan(digest)[0])
    lock, held = threading.Lock(), []
    fork = threading.Thread(target=lambda: held.append(forked_with(lock)), daemon=True)
    sweep, waiting = store.scripts.sweep_all, []

    def observed(*args: Any, **kwargs: Any) -> Any:
        waiting.append(FORKS.waiting)
        if len(waiting) == 1:
            with lock:
                fork.start()
                wait_until(lambda: FORKS.waiting)
        return sweep(*args, **kwargs)

    monkeypatch.setattr(store.scripts, "sweep_all", observed)
    monkeypatch.setattr("workers.recovery.sweeper.LOOKS", 1)
    assert sweeper.tick()
    fork.join(30)
    assert (waiting, held) == ([False, False], [False])
    store.client.close()
    client.cleanup_jobs(all=True)
