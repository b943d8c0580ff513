"""The registration of a worker: renewed while the worker runs, and removed when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.graphs import PATIENCE_MS, single
from tests.support.node import ROOT, RealNode
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.node import registration as registration_module
from workers.node.registration import NodeStep


def test_the_heartbeat_continues_after_a_failed_one(
    own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server answers, but refuses the write."""
    monkeypatch.setattr(registration_module, "HEARTBEAT_S", 0.01)
    store = Store(Settings(redis_url=own_server.url), retries=0)
    step = object.__new__(NodeStep)
    step._stop = threading.Event()
    own_server.client.execute_command("ACL", "SETUSER", "default", "-zadd", "-set")
    described = {"name": "worker@test", "pools": {}}
    beating = threading.Thread(target=step._beat, args=(store, described, {}), daemon=True)
    beating.start()
    wait_until(lambda: caplog.text.count("the heartbeat failed") >= 2)
    registration = store.keys.node("worker@test")
    assert not store.client.exists(registration)
    own_server.client.execute_command("ACL", "SETUSER", "default", "+zadd", "+set")
    wait_until(lambda: store.client.exists(registration))
    step._stop.set()
    beating.join(30)
    assert not store.client.exists(registration)
    store.client.close()


GREEN = """
from celery.concurrency.solo import TaskPool as Solo

class TaskPool(Solo):
    is_green = True
"""


def test_a_pool_of_green_threads_is_refused_with_one_line(node: RealNode, tmp_path: Path) -> None:
    """Modules would block such a worker, and it would never stop."""
    (tmp_path / "green.py").write_text(GREEN)
    env = {**node.env, "PYTHONPATH": str(tmp_path), "CELERY_CUSTOM_WORKER_POOL": "green:TaskPool"}
    celery = (sys.executable, "-m", "celery", "-A", "workers", "worker", "-P", "custom", "-n", "green@test")
    done = subprocess.run(celery, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "the pool green is not supported: use -P prefork, solo or threads"


def test_a_queue_that_no_setting_names_is_served_for_ever(redis_url: str, tmp_path: Path) -> None:
    """`-Q` alone makes a pool. More jobs than the worker has slots, one after the other."""
    settings = Settings(redis_url=redis_url, redis_namespace="unnamed", temp_dir=tmp_path / "temp")
    client = Client(settings)
    with RealNode(tmp_path, settings) as running:
        running.add("gpu", slots=2)
        ids = [client.run_manifest(single("true", pool="gpu")) for _ in range(7)]
        for job_id in ids:
            assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] == "completed"
        pools = [node["pools"] for node in client.inspect_nodes()]
        assert [pool["gpu"]["slots"] for pool in pools if "gpu" in pool] == [2]


def test_remote_control_stays_in_its_namespace(node: RealNode, redis_url: str) -> None:
    """Both namespaces are in one database of one server."""
    own, other = make_app(node.settings), make_app(Settings(redis_url=redis_url, redis_namespace="other"))
    assert len(own.control.inspect(timeout=10, limit=2).ping() or {}) == 2
    assert other.control.inspect(timeout=0.5).ping() is None


def test_a_system_without_a_temporary_folder_gets_one_in_the_nodes_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a read-only root: neither /tmp nor the working folder can be written. Clients need no such folder."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [os.environ.get("TMPDIR", "/proc")])
    monkeypatch.setenv("TMPDIR", "/proc")
    assert Settings().temp_dir.name.startswith("mirrorneuron-")
    registration_module.ensure_temp_folder(tmp_path)
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(tmp_path / "tmp")
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
