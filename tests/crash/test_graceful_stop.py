"""A worker that is asked to stop finishes its runs or gives them back; no other worker waits for a lease."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.store.job_store import Store
from tests.support.crash_bundles import gated, starts
from tests.support.graphs import executor, fan, is_alive, kinds, snapshots
from tests.support.node import RealNode
from tests.support.waiting import wait_until

GRACE_S = 3  # enough for a command to see its gate, also on a busy machine


@pytest.fixture(scope="module")
def overrides() -> dict[str, object]:
    """A lease longer than any test: a run that another worker takes over must have been given back."""
    return {"claim_lease_ms": 600_000, "stop_grace_seconds": GRACE_S}


def test_a_run_that_exceeds_the_grace_period_is_run_by_another_worker(
    own: RealNode, jobs: Client, tmp_path: Path
) -> None:
    job_id = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    stopped = own.ask_to_stop("default")
    assert stopped.wait(60) == 0
    assert not is_alive(starts(tmp_path)[0])
    own.restart("default")
    wait_until(lambda: len(starts(tmp_path)) == 2)
    (tmp_path / "gate").touch()
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
    assert "agent_recovery_started" not in kinds(jobs, job_id)
    assert snapshots(jobs, job_id)["worker"]["processed_messages"] == 1


def test_a_run_that_ends_within_the_grace_period_is_committed(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    job_id = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    stopped = own.ask_to_stop("default")
    (tmp_path / "gate").touch()
    assert stopped.wait(60) == 0
    own.restart("default")
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
    assert len(starts(tmp_path)) == 1


def test_a_run_that_was_given_back_does_not_count_as_an_attempt(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    graph = gated(tmp_path)
    graph["nodes"][0]["config"]["max_attempts"] = 1
    job_id = jobs.run_manifest(graph)
    wait_until(lambda: starts(tmp_path))
    assert own.ask_to_stop("default").wait(60) == 0
    agent = snapshots(jobs, job_id)["worker"]
    assert (agent["status"], agent["metadata"]["attempts"], agent["mailbox_depth"]) == ("queued", 0, 1)
    jobs.cancel(job_id)
    own.restart("default")


def test_a_worker_that_stops_hands_the_sweeping_over_at_once(own: RealNode) -> None:
    """The next sweeper does not wait for the lease, and a worker that is no longer registered does not sweep."""
    store = Store(own.settings)
    wait_until(lambda: {node["pid"] for node in store.registry.nodes()} >= set(own.pids.values()), timeout=60)
    wait_until(lambda: store.client.exists(store.keys.sweeper))
    for pool in ("default", "light"):
        assert own.ask_to_stop(pool).wait(60) == 0
    assert not store.client.exists(store.keys.sweeper)
    assert store.registry.nodes() == []
    store.client.close()
    for pool in ("light", "default"):
        own.restart(pool)


def test_a_rolling_restart_under_load_loses_nothing(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    """Every worker is replaced while jobs of executors and light agents are submitted and end."""
    leaves = [executor(f"leaf{n}", "sleep 0.05", output_message_type="done") for n in range(8)]
    over = threading.Event()
    ids: list[str] = []

    def produce() -> None:
        while not over.is_set():
            job_id, _ = jobs.run_manifest(fan(leaves, "done"), await_=True, timeout=60_000)
            ids.append(job_id)

    with ThreadPoolExecutor() as pool:
        producers = [pool.submit(produce) for _ in range(3)]
        try:
            for name in ("default", "light"):
                done = len(ids)
                assert own.replace(name).wait(60) == 0
                wait_until(lambda done=done: len(ids) >= done + 3 or any(p.done() for p in producers))  # type: ignore[misc]
        finally:
            over.set()
        for producer in producers:
            producer.result()
    for job_id in ids:
        job = jobs.inspect_job(job_id)
        assert (job["status"], job["result"]["output"]["count"]) == ("completed", 8)
        assert {"agent_recovery_started", "sandbox_job_failed"}.isdisjoint(kinds(jobs, job_id))
