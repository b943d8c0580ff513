"""The server is unreachable while jobs run: producers, workers, lease keeper and sweeper retry until it is back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from celery import Celery

from mirrorneuron import aio
from mirrorneuron.api.client import Client
from mirrorneuron.chaos.invariants import Expected
from mirrorneuron.job import JobMap
from mirrorneuron.store.keys import result_channel
from tests.support.crash_bundles import failing_once, queued, starts
from tests.support.graphs import kinds, light_fan, processed
from tests.support.leftovers import assert_went_well
from tests.support.node import RealNode
from tests.support.sweeping import no_sweeps
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

OUTAGE_S = 4.5  # one and a half leases
BACKOFF_MS = 4_000  # ends while the server is unreachable, unless the machine is busy
PATIENCE_MS = 60_000
WIDTH = 4_000  # leaves of a fan-out that takes a while
GATED = ("during", "after")  # commands that end while the server is unreachable, and after it is back


@pytest.fixture(scope="module")
def store_url(mortal: ValkeyServer) -> str:
    """A server that tests stop and freeze."""
    return mortal.url


@pytest.fixture(scope="module")
def overrides() -> dict[str, object]:
    """A slot for each job that runs a command."""
    return {"executor_max_concurrency": 3}


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_jobs_complete_and_no_worker_exits(
    mortal: ValkeyServer, own: RealNode, jobs: Client, celery_app_of: Callable[..., Celery], tmp_path: Path, how: str
) -> None:
    """Commands run, mail waits, a retry is due and a fan-out is under way; each message takes effect once."""
    for name in (*GATED, "retry"):
        (tmp_path / name).mkdir()
    ids = {name: jobs.run_manifest(queued(tmp_path / name, 3)) for name in GATED}
    ids["retry"] = jobs.run_manifest(failing_once(tmp_path / "retry", BACKOFF_MS))
    wait_until(lambda: all(starts(tmp_path / name) for name in GATED))
    wait_until(lambda: "executor_retry" in kinds(jobs, ids["retry"]))
    processes = tree(own)
    with ThreadPoolExecutor(32) as pool:
        other = celery_app_of(own.settings)
        gets = {name: Get(other, job) for name, job in ids.items()}
        waits = {(name, "get"): pool.submit(get) for name, get in gets.items()}
        wait_until(lambda: all(get.waits.is_set() for get in gets.values()))
        ids["fan"] = jobs.run_manifest(light_fan(WIDTH))
        for name, job in ids.items():
            waits[name, "wait"] = pool.submit(jobs.wait_for_job, job, PATIENCE_MS)
            waits[name, "aio"] = pool.submit(asyncio.run, aio.Client(jobs.settings).wait_for_job(job, PATIENCE_MS))
        wait_until(
            lambda: all(all_listen(mortal, job, 2 + (name in gets)) or over(waits, name) for name, job in ids.items())
        )
        with outage(mortal, how):
            (tmp_path / "during" / "gate").touch()
        back = datetime.now(UTC)
        (tmp_path / "after" / "gate").touch()
        statuses = {key: wait.result(timeout=60)["status"] for key, wait in waits.items()}
    assert set(statuses.values()) == {"completed"}, statuses
    for name in ids:
        assert "agent_recovery_started" not in kinds(jobs, ids[name]), f"{name}: its worker had not died"
    assert [len(starts(tmp_path / name)) for name in (*GATED, "retry")] == [3, 3, 2]
    assert [processed(jobs, ids[name]) for name in GATED] == [{"worker": 3, "sink": 3}] * 2
    assert processed(jobs, ids["retry"]) == {"worker": 1}
    leaves = {f"leaf{number}": 1 for number in range(WIDTH)}
    fan = Expected(processed={"spread": 1, "all": WIDTH, **leaves}, messages=({},) * WIDTH)
    assert_went_well(jobs, ids["fan"], fan)
    assert tree(own) == processes
    wait_until(lambda: beating_since(jobs, back) == {f"{pool}@{own.settings.redis_namespace}" for pool in own.pids})


def test_a_worker_that_reconnected_consumes_the_first_announcement(jobs: Client, tmp_path: Path) -> None:
    """No stale consumer of an old connection takes tasks; the sweeper does not run, so a lost task would stay lost."""
    (tmp_path / "gate").touch()
    with no_sweeps(jobs._live_parts().store):
        _, job = jobs.run_manifest(queued(tmp_path, 1), await_=True, timeout=PATIENCE_MS)
    assert job["status"] == "completed"


@contextmanager
def outage(server: ValkeyServer, how: str) -> Iterator[None]:
    """Stop or freeze the server for OUTAGE_S; the block runs in the middle of that time."""
    leave, come = {"stopped": (server.stop, server.start), "frozen": (server.freeze, server.thaw)}[how]
    began = time.monotonic()
    leave()
    try:
        wait_until(lambda: time.monotonic() > began + OUTAGE_S / 2)
        yield
        wait_until(lambda: time.monotonic() > began + OUTAGE_S)
    finally:
        come()


class Get:
    """A wait through Celery's AsyncResult."""

    def __init__(self, app: Celery, job_id: str) -> None:
        self._result = app.AsyncResult(job_id)
        self.waits = threading.Event()  #: it has seen that the job has not ended

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


def beating_since(client: Client, moment: datetime) -> set[str]:
    """The workers whose last heartbeat is younger than *moment*."""
    found = client.inspect_nodes()
    return {node["name"] for node in found if datetime.fromisoformat(node["last_heartbeat_at"]) > moment}
