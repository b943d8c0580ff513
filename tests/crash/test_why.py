"""Why a job does not move whose worker was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorneuron.client import Client
from tests.crash.bundles import gated, starts
from tests.support.node import RealNode
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def overrides() -> dict[str, object]:
    """A lease whose second half, in which the worker counts as silent, is long enough to be seen."""
    return {"claim_lease_ms": 2_000}


def test_a_killed_worker_is_named_before_its_lease_is_over(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    job_id = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    wait_until(lambda: jobs.why(job_id)["cause"] == "running")
    own.end("default")
    found = wait_until(lambda: told if (told := jobs.why(job_id))["cause"] == "dead_node" else None)
    assert found is not None
    name = f"default@{own.settings.redis_namespace}"
    assert found["message"] == f"worker is held by {name}, which is silent"
    assert found["hint"] == "no other worker serves pool 'default'; start one, unless it comes back: mn worker"
    assert (found["agent_id"], found["pool"]) == ("worker", "default")
    own.restart("default")
    (tmp_path / "gate").touch()
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
