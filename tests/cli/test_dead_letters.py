"""`mn dead-letters` and `mn replay`, as text and as JSON."""

from __future__ import annotations

import json
import uuid

import pytest

from mirrorneuron.api.client import Client
from tests.cli.conftest import Mn
from tests.support.graphs import agent, manifest
from tests.support.waiting import wait_until

OLD = {"timestamp": "2020-01-01T00:00:00.000Z", "ttl_ms": 600_000}
EXPIRED = "expired: older than its ttl_ms (600000)"


@pytest.fixture
def job(client: Client) -> str:
    """A job with two dead letters, which completes with two messages to `end`."""
    end = agent("end", "sensor", complete_job=True, complete_after=2)
    inputs = {"work": [{**OLD, "body": 1}, {**OLD, "body": 2}]}
    graph = manifest([agent("work", "sensor"), end], [("work", "end", "sensor_ready")], initial_inputs=inputs)
    job_id: str = client.run_manifest(graph, job_id=f"dead-{uuid.uuid4().hex[:8]}")
    wait_until(lambda: client.dead_letters(job_id))
    return job_id


def test_dead_letters_are_a_table_with_their_reasons(mn: Mn, client: Client, job: str):
    shown = mn("dead-letters", job)
    assert (shown.returncode, shown.stderr) == (0, "")
    heading, *rows = shown.stdout.splitlines()
    assert heading.split() == ["MESSAGE", "AGENT", "WHEN", "REASON"]
    found = client.dead_letters(job)
    expected = [[dead["message_id"], "work", dead["timestamp"], EXPIRED] for dead in found]
    assert [row.split(maxsplit=3) for row in rows] == expected
    assert json.loads(mn("dead-letters", job, "--json").stdout) == found


def test_a_replayed_dead_letter_leaves_the_list(mn: Mn, client: Client, job: str):
    first, second = (dead["message_id"] for dead in client.dead_letters(job))
    refused = mn("replay", job, first, "--to", "nobody")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert (
        refused.stderr
        == f"mn: job '{job}' has no agent 'nobody'; its agents: work, end; give another recipient: --to AGENT\n"
    )
    sent = mn("replay", job, first, "--to", "end")
    assert (sent.returncode, sent.stderr, len(sent.stdout.split())) == (0, "", 1)
    new = json.loads(mn("replay", job, second, "--to", "end", "--json").stdout)
    assert list(new) == ["message_id"]
    assert {new["message_id"], sent.stdout.strip()}.isdisjoint({first, second})
    result = client.wait_for_job(job, 60_000)["result"]
    assert result is not None
    assert result["output"] == {"count": 2, "last_message": 2}
    assert mn("dead-letters", job).stdout == f"job {job} has no dead letters\n"


def test_a_dead_letter_of_an_ended_job_cannot_be_replayed(mn: Mn, client: Client, job: str):
    dead = client.dead_letters(job)[0]
    client.cancel(job)
    ended = mn("replay", job, dead["message_id"], "--to", "end")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"mn: job '{job}' accepts no messages: it is cancelled\n"


def test_the_message_on_which_a_job_failed_cannot_be_replayed(mn: Mn, client: Client, failing: str):
    job_id, _ = client.run_manifest(failing, await_=True)
    (dead,) = client.dead_letters(job_id)
    ended = mn("replay", job_id, dead["message_id"])
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "retry the job instead" in ended.stderr


def test_unknown_jobs_and_messages_exit_3(mn: Mn, job: str):
    ended = mn("replay", job, "no-such-message")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr == f"mn: job '{job}' has no dead letter 'no-such-message'\n"
    ended = mn("replay", "nobody", "m")
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "mn: no job 'nobody'\n")


def test_without_a_server_a_replay_exits_5(mn: Mn, unreachable):
    ended = mn("replay", "some", "m", env=unreachable)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert len(ended.stderr.splitlines()) == 1
