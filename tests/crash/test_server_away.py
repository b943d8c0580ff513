"""The server is away in the middle of everything: producers, workers, keeper and sweeper ride it out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from celery import Celery

from mirrorneuron import aio
from mirrorneuron.client import Client
from mirrorneuron.job import JobMap
from mirrorneuron.keys import result_channel
from mirrorneuron.settings import Settings
from tests.crash.bundles import failing_once, queued, starts
from tests.crash.conftest import LEASE_MS
from tests.jobs.graphs import kinds, light_fan, snapshots
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

AWAY_S = 4.5  # several leases
BACKOFF_MS = 4_000  # ends while the server is away, if the machine has time
PATIENCE_MS = 60_000
WIDTH = 4_000  # of a fan-out that takes a while
GATED = ("during", "after")  # commands that end while the server is away, and after it is back


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server of this module's own, which keeps its data."""
    with ValkeyServer(tmp_path_factory.mktemp("away"), durable=True) as running:
        yield running


@pytest.fixture(scope="module")
def node(server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """A node on it, with a lease that is short beside the absences."""
    folder = tmp_path_factory.mktemp("away_node")
    settings = Settings(
        redis_url=server.url,
        redis_namespace=folder.name,
        temp_dir=folder / "temp",
        executor_max_concurrency=3,
        claim_lease_ms=LEASE_MS,
    )
    with RealNode(folder, settings) as running:
        yield running


@pytest.fixture
def other(node: RealNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """Somebody's own Celery app, which waits for jobs by `AsyncResult`."""
    monkeypatch.setenv("MIRROR_NEURON_REDIS_NAMESPACE", node.settings.redis_namespace)
    backend = f"mirrorneuron+{node.settings.redis_url}"
    app = Celery("other", broker="memory://", backend=backend, set_as_current=False)
    app.conf.result_backend_thread_safe = True
    yield app
    app.backend.result_consumer.subscribed_to.clear()  # results that are deleted later send nothing more
    app.backend.result_consumer.stop()
    app.backend.store.client.close()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_jobs_end_rightly_and_nobody_dies(
    server: ValkeyServer, node: RealNode, client: Client, other: Celery, tmp_path: Path, how: str
) -> None:
    """Commands run, mail waits, a retry is due and a fan-out is in flight; each message takes effect once."""
    for name in (*GATED, "retry"):
        (tmp_path / name).mkdir()
    jobs = {name: client.run_manifest(queued(tmp_path / name, 3)) for name in GATED}
    jobs["retry"] = client.run_manifest(failing_once(tmp_path / "retry", BACKOFF_MS))
    wait_until(lambda: all(starts(tmp_path / name) for name in GATED))
    wait_until(lambda: "executor_retry" in kinds(client, jobs["retry"]))
    processes = tree(node)
    with ThreadPoolExecutor(32) as pool:
        gets = {name: Get(other, job) for name, job in jobs.items()}
        waits = {(name, "get"): pool.submit(get) for name, get in gets.items()}
        wait_until(lambda: all(get.waits.is_set() for get in gets.values()))
        jobs["fan"] = client.run_manifest(light_fan(WIDTH))
        for name, job in jobs.items():
            waits[name, "wait"] = pool.submit(client.wait_for_job, job, PATIENCE_MS)
            waits[name, "aio"] = pool.submit(asyncio.run, aio.Client(client.settings).wait_for_job(job, PATIENCE_MS))
        wait_until(
            lambda: all(all_listen(server, job, 2 + (name in gets)) or over(waits, name) for name, job in jobs.items())
        )
        with away(server, how):
            (tmp_path / "during" / "gate").touch()
        back = datetime.now(UTC)
        (tmp_path / "after" / "gate").touch()
        statuses = {key: wait.result(timeout=60)["status"] for key, wait in waits.items()}
    assert set(statuses.values()) == {"completed"}, statuses
    for name in jobs:
        assert "agent_recovery_started" not in kinds(client, jobs[name]), f"{name}: its worker had not died"
    assert [len(starts(tmp_path / name)) for name in (*GATED, "retry")] == [3, 3, 2]
    assert [processed(client, jobs[name]) for name in GATED] == [{"worker": 3, "sink": 3}] * 2
    assert processed(client, jobs["retry"]) == {"worker": 1}
    leaves = {f"leaf{number}": 1 for number in range(WIDTH)}
    assert processed(client, jobs["fan"]) == {"spread": 1, "all": WIDTH, **leaves}
    assert tree(node) == processes
    wait_until(lambda: beating_since(client, back) == {f"{pool}@{node.settings.redis_namespace}" for pool in node.pids})


def test_a_worker_that_came_back_is_as_quick_as_before(client: Client, tmp_path: Path) -> None:
    """Nothing that it waits for now is left from the absences."""
    (tmp_path / "gate").touch()
    client.run_manifest(queued(tmp_path, 1), await_=True, timeout=3_000)


@pytest.fixture
def client(node: RealNode) -> Iterator[Client]:
    running = Client(node.settings)
    yield running
    running.cleanup_jobs(all=True)


@contextmanager
def away(server: ValkeyServer, how: str) -> Iterator[None]:
    """The server is stopped, or cut off without a word, for AWAY_S; the block is run in the middle of it."""
    leave, come = {"stopped": (server.stop, server.start), "frozen": (server.freeze, server.thaw)}[how]
    began = time.monotonic()
    leave()
    try:
        wait_until(lambda: time.monotonic() > began + AWAY_S / 2)
        yield
        wait_until(lambda: time.monotonic() > began + AWAY_S)
    finally:
        come()


class Get:
    """A wait by Celery's own API."""

    def __init__(self, app: Celery, job_id: str) -> None:
        self._result = app.AsyncResult(job_id)
        self.waits = threading.Event()  #: it has found that the job goes on

    def __call__(self) -> JobMap:
        return self._result.get(timeout=PATIENCE_MS / 1000, on_interval=self.waits.set)


def all_listen(server: ValkeyServer, job_id: str, count: int) -> bool:
    return server.client.pubsub_numsub(result_channel(job_id))[0][1] == count


def over(waits: dict[tuple[str, str], Future[JobMap]], name: str) -> bool:
    return all(wait.done() for (job, _), wait in waits.items() if job == name)


def tree(node: RealNode) -> dict[str, tuple[int, list[int]]]:
    """Pool -> pid of its worker, pids of its children."""
    children = {pid: Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in node.pids.values()}
    return {pool: (pid, sorted(int(child) for child in children[pid])) for pool, pid in node.pids.items()}


def processed(client: Client, job_id: str) -> dict[str, int]:
    """Agent -> messages that it has consumed."""
    return {name: agent["processed_messages"] for name, agent in snapshots(client, job_id).items()}


def beating_since(client: Client, moment: datetime) -> set[str]:
    """The workers whose last heartbeat is younger than *moment*."""
    found = client.inspect_nodes()
    return {node["name"] for node in found if datetime.fromisoformat(node["last_heartbeat_at"]) > moment}
