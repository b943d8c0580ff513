"""A shortage of the node: the run is given back uncounted, the worker pauses, and everybody is told."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.cli.commands.nodes import row
from mirrorneuron.diagnostics.checkup import findings
from mirrorneuron.diagnostics.finding import Level, RuntimeStatus
from mirrorneuron.settings import Settings
from tests.support.node import RealNode
from tests.support.waiting import wait_until
from workers.lifecycle.shortage import Board, NodeShortage, shortage_of


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, ""), "disk full"),
        (OSError(errno.EDQUOT, ""), "disk quota exceeded"),
        (BlockingIOError(errno.EAGAIN, ""), "no processes left"),
        (OSError(errno.EMFILE, ""), "no descriptors left"),
        (OSError(errno.ENFILE, ""), "no descriptors left on the machine"),
        (OSError(errno.ENOMEM, ""), "no memory left"),
        (MemoryError(), "no memory left"),
        (RuntimeError("can't start new thread"), "no processes left"),
        (NodeShortage("disk full"), "disk full"),
        (OSError(errno.EACCES, ""), ""),
        (RuntimeError("other"), ""),
        (ValueError("x"), ""),
    ],
)
def test_a_shortage_is_told_by_its_error(error: Exception, kind: str) -> None:
    assert shortage_of(error) == kind


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("workers.lifecycle.shortage.time.time", lambda: now[0])
    return now


def test_the_pause_doubles_with_each_shortage_in_a_row_up_to_a_minute(clock: list[float]) -> None:
    board = Board()
    assert board.present() is None
    assert not board.active
    pauses = []
    for _ in range(9):
        board.report("disk full")
        board.report("no memory left")  # of another process, within the pause
        assert board.present() == ("disk full", 1000.0)
        began = clock[0]
        while board.active:
            clock[0] += 0.5
        pauses.append(clock[0] - began)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    board.clear()
    assert board.present() is None
    board.report("no memory left")
    assert board.present() == ("no memory left", clock[0])


def test_a_clock_that_is_set_back_ends_the_pause(clock: list[float]) -> None:
    board = Board()
    board.report("disk full")
    clock[0] -= 3600
    assert not board.active


def test_forked_processes_share_the_board() -> None:
    board = Board()
    child = os.fork()
    if not child:
        board.report("disk full")
        os._exit(0)
    os.waitpid(child, 0)
    assert board.active
    assert (board.present() or ("", 0))[0] == "disk full"


def test_doctor_and_the_list_of_nodes_name_the_shortage() -> None:
    sick = {"reason": "disk full", "since": "2026-01-31T12:00:00.000Z"}
    node: Any = {"name": "default@a", "host": "a", "pid": 1, "pools": {}, "stopping": False, "versions": {}}
    more: Any = {"started_at": "", "last_heartbeat_at": "", "unhealthy": sick}
    shown = row(node | more)
    assert shown[0] == "default@a (unhealthy: disk full, since 2026-01-31T12:00:00.000Z)"
    found = findings(RuntimeStatus(nodes=[node | more]))
    (said,) = [each for each in found if "unhealthy" in each["message"]]
    assert said["level"] == Level.ERROR
    assert "default@a is unhealthy: disk full, since 2026-01-31T12:00:00.000Z" in said["message"]
    assert said["hint"] == "free space in MIRROR_NEURON_TEMP_DIR on a"


@pytest.fixture
def own_node(redis_url: str, tmp_path: Path) -> Iterator[RealNode]:
    settings = Settings(
        redis_url=redis_url,
        redis_namespace=f"short-{tmp_path.name}"[:64],
        temp_dir=tmp_path / "temp",
        executor_max_concurrency=1,
    )
    with RealNode(tmp_path, settings) as node:
        yield node


GRAPH = {
    "manifest_version": "1.0",
    "graph_id": "short",
    "entrypoints": ["work"],
    "nodes": [
        {
            "node_id": "work",
            "agent_type": "executor",
            "config": {"command": ["echo", "ok"], "complete_job": True, "max_attempts": 1},
        }
    ],
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set by a call of Linux")
def test_a_node_without_descriptors_gives_runs_back_and_runs_them_when_it_has_some(own_node: RealNode) -> None:
    client = Client(own_node.settings)
    assert client.run_manifest(GRAPH, await_=True, timeout=60_000)[1]["status"] == "completed"
    (worker,) = psutil.Process(own_node.pids["default"]).children()
    before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    job_id = client.run_manifest(GRAPH)
    sick = wait_until(lambda: [node["unhealthy"] for node in client.inspect_nodes() if node["unhealthy"]], timeout=60)
    assert sick[0]["reason"] == "no descriptors left"
    found = wait_until(lambda: found if (found := client.why(job_id))["cause"] == "unhealthy_node" else None)
    assert "work waits for a healthy node: default@" in found["message"]
    assert "is unhealthy: no descriptors left" in found["message"]
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
    job = client.wait_for_job(job_id, timeout=60_000)
    assert job["status"] == "completed", job["result"]
    assert job["result"]["output"]["sandbox"]["attempts"] == 1, "the runs that were given back do not count"
    wait_until(lambda: not [node for node in client.inspect_nodes() if node["unhealthy"]])
    client.cleanup_jobs(all=True)
