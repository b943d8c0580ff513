"""Two workers of one name on one machine."""

from __future__ import annotations

from pathlib import Path

from mirrorneuron.client import Client
from tests.crash.bundles import gated, starts
from tests.jobs.graphs import is_alive
from tests.support.node import RealNode
from tests.support.waiting import wait_until


def test_a_second_worker_of_the_same_name_ends_nothing_of_the_first(
    own: RealNode, jobs: Client, tmp_path: Path
) -> None:
    """A worker ends what an earlier life of it has left behind; this one is alive."""
    job_id = jobs.run_manifest(gated(tmp_path))
    (pid,) = wait_until(lambda: starts(tmp_path))
    own.double("default")
    wait_until(lambda: "another worker here is called default@" in own.log.read_text())
    assert is_alive(pid)
    (tmp_path / "gate").touch()
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
    assert len(starts(tmp_path)) == 1
