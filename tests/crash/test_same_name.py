"""Two workers with the same name on one machine."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from mirrorneuron.api.client import Client
from mirrorneuron.store.job_store import Store
from tests.support.crash_bundles import gated, starts
from tests.support.graphs import is_alive
from tests.support.node import RealNode
from tests.support.waiting import wait_until
from workers.runners.command import mark_of


def test_a_worker_ends_the_orphans_of_its_predecessor(own: RealNode) -> None:
    """It leaves alone the processes of a worker whose name only begins with its own."""
    name = f"default@{own.settings.redis_namespace}"
    left, others = (marked(own, worker) for worker in (name, f"{name}2"))
    try:
        own.restart("default")
        assert left.wait(60) == -signal.SIGKILL
        assert others.poll() is None
    finally:
        for stray in (left, others):
            stray.kill()
            stray.wait()


def test_a_second_worker_of_the_same_name_gets_a_name_of_its_own(own: RealNode, tmp_path: Path) -> None:
    """Also on another machine, which shares no folder with the first. A worker that was killed leaves its name free."""
    name = f"default@{own.settings.redis_namespace}"
    own.restart("default")
    store = Store(own.settings)

    def names(pid: int) -> list[str]:
        return [node["name"] for node in store.registry.nodes() if node["pid"] == pid]

    assert wait_until(lambda: names(own.pids["default"])) == [name], "it was free at once"
    first = own.pids["default"]
    own.double("default", MIRROR_NEURON_TEMP_DIR=str(tmp_path / "elsewhere"))
    second = own.pids["default"]
    assert wait_until(lambda: names(second)) == [f"{name}-{second}"]
    assert names(first) == [name]
    assert f"another worker is named {name}; this one is {name}-{second} now" in own.log.read_text()
    store.close()


def marked(own: RealNode, worker: str) -> subprocess.Popen[bytes]:
    """A process with the environment mark of a run of *worker*."""
    variable, _, value = mark_of(own.settings, worker).partition("=")
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], env={variable: f"{value}job:work"})


def test_a_second_worker_of_the_same_name_leaves_the_runs_of_the_first_alone(
    own: RealNode, jobs: Client, tmp_path: Path
) -> None:
    """A worker ends the orphans of its predecessor, but this predecessor is alive."""
    job_id = jobs.run_manifest(gated(tmp_path))
    (pid,) = wait_until(lambda: starts(tmp_path))
    own.double("default")
    wait_until(lambda: "another worker on this machine is named default@" in own.log.read_text())
    assert is_alive(pid)
    (tmp_path / "gate").touch()
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
    assert len(starts(tmp_path)) == 1
