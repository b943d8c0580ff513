"""Workers are killed; other workers take over their agents, and each message takes effect once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.pools import LIGHT, queue
from tests.support.crash_bundles import gated, starts
from tests.support.graphs import is_alive, router
from tests.support.node import RealNode
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def app_module() -> str:
    """The workers' app, with a sweeper that re-announces quickly."""
    return "tests.support.crashing"


def test_a_killed_workers_agent_runs_again_on_another(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    job_id = jobs.run_manifest(gated(tmp_path))
    (pid,) = wait_until(lambda: starts(tmp_path))
    own.restart("default")
    wait_until(lambda: len(starts(tmp_path)) == 2)
    wait_until(lambda: not is_alive(pid))
    (tmp_path / "gate").touch()
    job = jobs.wait_for_job(job_id, timeout=60_000)
    assert job["status"] == "completed"
    assert job["result"] is not None
    assert job["result"]["output"]["count"] == 1
    types = [event["type"] for event in jobs.events(job_id)]
    assert types.count("agent_recovered") == 1


def test_a_message_that_kills_its_workers_fails_the_job(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    """A poison message is not run forever."""
    job_id = jobs.run_manifest(gated(tmp_path, max_agent_restart_attempts=2))
    for deaths in (1, 2):
        wait_until(lambda deaths=deaths: len(starts(tmp_path)) == deaths)  # type: ignore[misc]
        own.restart("default")
    job = jobs.wait_for_job(job_id, timeout=60_000)
    assert job["result"] is not None
    assert job["result"]["agent_id"] == "worker"
    assert (
        job["result"]["error"]
        == "the worker died while it ran this message (losses: 2, limit: policies.max_agent_restart_attempts)"
    )
    (dead,) = jobs.dead_letters(job_id)
    assert job["result"]["details"] == {"losses": 2, "message_id": dead["message_id"]}
    states = {agent["agent_id"]: (agent["status"], agent["last_error"]) for agent in jobs.inspect_agents(job_id)}
    assert states == {"worker": ("error", "the worker died while it ran this message"), "sink": ("ready", None)}


def test_manual_recovery_pauses_the_job_until_it_is_resumed(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    job_id = jobs.run_manifest(gated(tmp_path, recovery_mode="manual_recover"))
    wait_until(lambda: starts(tmp_path))
    own.restart("default")
    wait_until(lambda: jobs.inspect_job(job_id)["status"] == "paused")
    (tmp_path / "gate").touch()
    jobs.resume(job_id)
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"


@pytest.mark.parametrize("pool", ["light", "default"])
def test_tasks_of_an_emptied_queue_are_published_again(own: RealNode, jobs: Client, tmp_path: Path, pool: str) -> None:
    """A task is only a wake-up call; the sweeper re-announces."""
    (tmp_path / "gate").touch()
    own.end(pool)
    graph = gated(tmp_path)
    if pool == LIGHT:  # whose worker opens the job only if its entrypoint is light
        graph["nodes"].append(router("first"))
        graph["entrypoints"] = ["first"]
        graph["edges"].append({"from_node": "first", "to_node": "worker", "message_type": "go"})
    job_id = jobs.run_manifest(graph)
    server, name = jobs._live_parts().store.client, queue(own.settings.redis_namespace, pool)
    wait_until(lambda: server.llen(name))
    server.delete(name)
    own.restart(pool)
    assert jobs.wait_for_job(job_id, timeout=90_000)["status"] == "completed"
    assert len(starts(tmp_path)) == 1
