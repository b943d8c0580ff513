"""`why` for a job whose worker was killed or is stopping."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.diagnostics.job_diagnosis import Diagnosis
from tests.support.crash_bundles import gated, starts
from tests.support.node import RealNode
from tests.support.waiting import wait_until

LEASE_MS = 60_000  # does not expire while the test runs


@pytest.fixture(scope="module")
def overrides() -> dict[str, object]:
    return {"claim_lease_ms": LEASE_MS}


def test_a_stopping_worker_is_reported_while_it_finishes(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    job_id = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    name = f"default@{own.settings.redis_namespace}"

    def stopping() -> dict[str, bool]:
        return {node["name"]: node["stopping"] for node in jobs.inspect_nodes()}

    assert not any(stopping().values())
    stopped = own.ask_to_stop("default")
    wait_until(lambda: stopping().get(name))
    (tmp_path / "gate").touch()
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
    assert stopped.wait(60) == 0
    assert name not in stopping()
    own.restart("default")


def leave(client: Client, job_id: str, left_ms: int) -> None:
    """Move the end of the worker's lease to *left_ms* from now."""
    store = client._live_parts().store
    store.client.zadd(store.keys.claims(job_id), {"worker": store.now_ms() + left_ms})


def test_a_killed_worker_is_named_before_its_lease_is_over(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    """In the second half of the lease the worker counts as silent."""
    job_id = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    wait_until(lambda: jobs.why(job_id)["cause"] == "running")
    own.end("default")

    def diagnosed() -> Diagnosis | None:
        leave(jobs, job_id, LEASE_MS // 3)
        found = jobs.why(job_id)
        return found if found["cause"] == "dead_node" else None

    found = wait_until(diagnosed)
    assert found is not None
    name = f"default@{own.settings.redis_namespace}"
    assert found["message"] == f"worker is claimed by {name}, which no longer renews its lease"
    assert found["hint"] == f"no other worker serves pool 'default'; start one unless {name} comes back: mn worker"
    assert (found["agent_id"], found["pool"]) == ("worker", "default")
    own.restart("default")
    (tmp_path / "gate").touch()
    leave(jobs, job_id, 0)
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
