"""Pause, resume, cancel, send, retry and cleanup, on real workers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mirrorneuron import AgentNotFound, JobNotFound, JobStateError
from mirrorneuron.api.client import Client
from tests.support.crash_bundles import fed, gated, starts
from tests.support.graphs import is_alive, processed
from tests.support.waiting import wait_until


def test_a_paused_job_takes_no_new_message_until_it_is_resumed(jobs: Client, tmp_path: Path) -> None:
    """A run that has begun finishes and commits; the messages that it sends wait."""
    job_id = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    assert jobs.pause(job_id)["status"] == jobs.pause(job_id)["status"] == "paused"
    (tmp_path / "gate").touch()
    wait_until(lambda: jobs.inspect_agents(job_id)[1]["mailbox_depth"])
    worker, sink = jobs.inspect_agents(job_id)
    assert (worker["processed_messages"], sink["processed_messages"], sink["status"]) == (1, 0, "paused")
    assert jobs.resume(job_id)["status"] in ("running", "completed")
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
    types = [event["type"] for event in jobs.events(job_id)]
    assert types.count("job_paused") == types.count("job_resumed") == 1


def test_cancelling_a_job_ends_its_command_and_records_the_reason(jobs: Client, tmp_path: Path) -> None:
    job_id = jobs.run_manifest(gated(tmp_path))
    (pid,) = wait_until(lambda: starts(tmp_path))
    job = jobs.cancel(job_id, reason="not needed")
    assert job["status"] == "cancelled"
    assert job["result"] is not None
    assert job["result"]["reason"] == "not needed"
    assert job["result"]["by"]
    wait_until(lambda: not is_alive(pid))
    (tmp_path / "gate").touch()
    assert jobs.cancel(job_id)["result"] == job["result"]
    assert jobs.inspect_agents(job_id)[0]["mailbox_depth"] == 1, "its mail is kept for a retry"


def test_a_retried_job_continues_where_it_was_cancelled(jobs: Client, tmp_path: Path) -> None:
    job_id = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    jobs.cancel(job_id)
    (tmp_path / "gate").touch()
    assert jobs.retry(job_id)["run"] == 2
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
    assert len(starts(tmp_path)) == 2


def test_a_job_can_be_retried_from_an_agent_that_has_finished(jobs: Client, tmp_path: Path) -> None:
    """It gets its last input again; the agents downstream are cleared, and an event counts the cleared mail."""
    manifest = gated(tmp_path)
    manifest["nodes"][1]["config"] = {"complete_after": 2}
    (tmp_path / "gate").touch()
    job_id = jobs.run_manifest(manifest)
    wait_until(lambda: jobs.inspect_job(job_id)["idle_since"])
    jobs.cancel(job_id)
    jobs.retry(job_id, from_agent="worker")
    wait_until(lambda: len(starts(tmp_path)) == 2)
    wait_until(lambda: jobs.inspect_job(job_id)["idle_since"])
    assert {a["agent_id"]: a["mailbox_depth"] for a in jobs.inspect_agents(job_id)} == {"worker": 0, "sink": 1}
    cleared = [event for event in jobs.events(job_id) if event["type"] == "mail_cleared"]
    assert [(event["agent_id"], event["payload"]) for event in cleared] == [("sink", {"count": 1})]


def test_a_message_from_outside_is_delivered_once(jobs: Client) -> None:
    job_id = jobs.run_manifest(fed())
    wait_until(lambda: jobs.inspect_job(job_id)["status"] == "running")
    again = {"envelope": {"message_id": "one"}, "body": 1}
    assert jobs.send_message(job_id, "ear", again) == jobs.send_message(job_id, "ear", again) == "one"
    jobs.send_message(job_id, "ear", {"n": 2})
    with pytest.raises(TimeoutError):
        jobs.wait_for_job(job_id, timeout=50)
    jobs.send_message(job_id, "ear", {"n": 3})
    job = jobs.wait_for_job(job_id, timeout=60_000)
    assert job["result"] == {"agent_id": "ear", "output": {"count": 3, "last_message": {"n": 3}}}


def test_one_id_may_name_messages_of_several_agents(jobs: Client, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    job_id = jobs.run_manifest({**fed(), "nodes": [*fed()["nodes"], {"node_id": "nose", "agent_type": "sensor"}]})
    message = {"envelope": {"message_id": "one"}, "body": 1}
    for agent in ("ear", "nose", "ear"):
        jobs.send_message(job_id, agent, message)
    wait_until(lambda: processed(jobs, job_id) == {"start": 1, "ear": 1, "nose": 1})


def test_control_of_a_missing_job_or_agent_or_in_a_wrong_state_is_one_clear_error(jobs: Client, tmp_path: Path) -> None:
    for call in (jobs.pause, jobs.resume, jobs.cancel, jobs.retry, lambda job: jobs.send_message(job, "a", {})):
        with pytest.raises(JobNotFound, match="no job 'nobody'"):
            call("nobody")
    (tmp_path / "gate").touch()
    job_id, _ = jobs.run_manifest(gated(tmp_path), await_=True, timeout=60_000)
    for call in (jobs.pause, jobs.resume, jobs.cancel, jobs.retry):
        with pytest.raises(JobStateError, match="is completed"):
            call(job_id)
    with pytest.raises(JobStateError, match="accepts no messages: it is completed"):
        jobs.send_message(job_id, "worker", {})
    with pytest.raises(AgentNotFound, match="no agent 'wroker'; its agents: worker, sink"):
        jobs.send_message(job_id, "wroker", {})


def test_cleanup_deletes_ended_jobs_and_with_all_cancels_live_ones(jobs: Client, tmp_path: Path) -> None:
    live = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    (pid,) = starts(tmp_path)
    ended = jobs.run_manifest(fed())
    jobs.cancel(ended)
    assert jobs.cleanup_jobs() == [ended]
    assert [job["job_id"] for job in jobs.list_jobs()] == [live]
    assert jobs.cleanup_jobs(all=True) == [live]
    assert jobs.list_jobs() == []
    wait_until(lambda: not is_alive(pid))
    server, ns = jobs._live_parts().store.client, jobs.settings.redis_namespace
    left = wait_until(lambda: [k for k in server.scan_iter(f"{ns}:job:*") if server.ttl(k) < 0] == [] or None)
    assert left


def test_a_job_past_its_timeout_fails(jobs: Client, tmp_path: Path) -> None:
    job_id = jobs.run_manifest(gated(tmp_path, job_timeout_ms=300))
    job = jobs.wait_for_job(job_id, timeout=60_000)
    assert job["result"] is not None
    assert (job["status"], job["result"]["error"]) == (
        "failed",
        "the job timed out: it is older than policies.job_timeout_ms",
    )


def test_a_job_that_is_idle_for_too_long_fails(jobs: Client) -> None:
    job_id = jobs.run_manifest({**fed(), "policies": {"idle_timeout_ms": 100}})
    started = time.monotonic()
    job = jobs.wait_for_job(job_id, timeout=60_000)
    assert job["result"] is not None
    assert "idle" in job["result"]["error"], time.monotonic() - started
