"""`Client.why` on a real server, with real workers or without any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.diagnostics.job_diagnosis import Cause, Diagnosis
from mirrorneuron.errors import JobNotFound, JobStateError
from mirrorneuron.settings import Settings
from tests.support.graphs import PATIENCE_MS, agent, collector, ended, executor, manifest, router, single, until_there
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

OLD = {"timestamp": "2020-01-01T00:00:00.000Z", "ttl_ms": 600_000, "body": 1}


class Live(Client):
    """A client that cancels the jobs that it has submitted when the test ends."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.begun: list[str] = []

    def submit(self, graph: Any) -> str:
        self.begun.append(self.run_manifest(graph))
        return self.begun[-1]

    def until(self, job_id: str, cause: Cause) -> Diagnosis:
        """Ask until the cause is *cause*."""

        def told() -> Diagnosis | None:
            found = self.why(job_id)
            return found if found["cause"] == cause else None

        found = wait_until(told)
        assert found is not None
        return found


@pytest.fixture
def live(client: Client) -> Iterator[Live]:
    made = Live(client.settings)
    yield made
    for job_id in made.begun:
        with suppress(JobStateError):  # it has ended
            made.cancel(job_id)


@pytest.fixture
def gate(outside: Path) -> Iterator[Path]:
    """The path of a missing file; commands that wait for it end with the test."""
    yield outside / "gate"
    (outside / "gate").touch()


def test_an_unserved_pool_is_named_with_the_agent_that_needs_it(live: Live) -> None:
    job_id = live.submit(single("true", pool="gpu"))
    found = live.until(job_id, Cause.NO_NODE)
    assert found["message"] == "no node serves pool 'gpu', which work needs; served pools: default"
    assert found["hint"] == "start one: mn worker --pool gpu"
    assert (found["agent_id"], found["pool"]) == ("work", "gpu")
    (asked,) = [event for event in live.events(job_id) if event["type"] == "executor_lease_requested"]
    assert found["since"] is not None
    assert found["since"][:19] == asked["timestamp"][:19]


def test_a_pending_job_without_nodes_says_that_no_node_is_alive(unserved: Client) -> None:
    job_id = unserved.run_manifest(single("true"))
    found = unserved.why(job_id)
    assert (found["cause"], found["message"], found["hint"]) == ("no_node", "no node is alive", "start one: mn worker")
    assert found["since"] == unserved.inspect_job(job_id)["submitted_at"]


def test_a_running_command_is_named_with_its_worker(live: Live, gate: Path) -> None:
    job_id = live.submit(single(until_there(gate)))
    found = live.until(job_id, Cause.RUNNING)
    assert found["message"] == f"work runs on default@{live.settings.redis_namespace}"
    assert found["hint"] == f"follow its output: mn logs {job_id} work --follow"


def test_the_holders_of_taken_slots_are_named(live: Live, gate: Path) -> None:
    """The node has two slots."""
    first = [live.submit(single(until_there(gate))) for _ in range(2)]
    for job_id in first:
        live.until(job_id, Cause.RUNNING)
    found = live.until(live.submit(single("true")), Cause.SLOTS_BUSY)
    assert found["message"].startswith("no slot of pool 'default' is free for work: 2 slots taken, by ")
    for job_id in first:
        assert f"{job_id}/work" in found["message"]
    gate.touch()
    assert live.wait_for_job(live.begun[-1], PATIENCE_MS)["status"] == "completed"
    assert live.why(live.begun[-1])["message"] == "the job is completed"


def test_a_failed_run_that_will_be_retried_says_when_and_why(live: Live) -> None:
    found = live.until(live.submit(single("exit 3", max_attempts=2, retry_backoff_ms=60_000)), Cause.RETRY_WAIT)
    assert found["message"].startswith("work is retried in ")
    assert found["message"].endswith("; attempt 1 of 2 failed: command exited with code 3")


def test_a_delayed_start_is_a_cause(live: Live) -> None:
    found = live.until(live.submit(single("true", startup_delay_ms=60_000)), Cause.RETRY_WAIT)
    assert found["message"].endswith(", because of its startup_delay_ms")


def test_a_job_that_waits_for_a_message_from_outside_names_its_sensor(live: Live) -> None:
    job_id = live.submit(manifest([router("start"), agent("ear", "sensor", complete_job=True)]))
    found = live.until(job_id, Cause.WAITING_OUTSIDE)
    assert found["message"] == "the job waits for a message from outside to ear"
    assert found["since"] == live.inspect_job(job_id)["idle_since"]
    live.send_message(job_id, "ear", {"body": 1})
    assert live.wait_for_job(job_id, PATIENCE_MS)["status"] == "completed"


def test_an_aggregator_without_enough_messages_names_the_agent_whose_message_matched_no_edge(live: Live) -> None:
    works = [executor(f"w{n}", "true", output_message_type="done") for n in range(5)]
    edges = [("spread", f"w{n}", "go") for n in range(5)] + [(f"w{n}", "all", "done") for n in range(5)]
    graph = manifest([router("spread"), *works, collector("all", 5)], edges)
    (edge,) = [edge for edge in graph["edges"] if edge["from_node"] == "w3"]
    edge["conditions"] = {"expr": "body.agent_id == 'w4'"}
    found = live.until(live.submit(graph), Cause.INCOMPLETE)
    told = "all has 4 of 5 messages, and no agent can send it more; 1 message of w3 matched no edge"
    assert (found["message"], found["agent_id"]) == (told, "all")


def test_an_aggregator_without_enough_messages_reports_dead_letters(live: Live) -> None:
    nodes = [agent("work", "router"), collector("all")]
    graph = manifest(nodes, [("work", "all", "*")], initial_inputs={"work": OLD})
    found = live.until(live.submit(graph), Cause.INCOMPLETE)
    assert found["message"] == "all has 0 of 1 message, and no agent can send it more; 1 dead letter"
    assert "mn dead-letters" in found["hint"]


def test_a_paused_job_names_the_user_and_the_time(live: Live) -> None:
    job_id = live.submit(manifest([agent("ear", "sensor")]))
    live.until(job_id, Cause.WAITING_OUTSIDE)
    live.pause(job_id)
    (told,) = [event for event in live.events(job_id) if event["type"] == "job_paused"]
    found = live.why(job_id)
    assert found["message"] == f"the job was paused by {told['payload']['by']}"
    assert (found["since"], found["hint"]) == (told["timestamp"], f"resume it: mn resume {job_id}")


def test_an_ended_job_says_how_it_ended(live: Live) -> None:
    failed = live.why(ended(live, single("exit 3"))["job_id"])
    assert failed["message"] == "the job failed in work: command exited with code 3"
    job_id = live.submit(manifest([agent("ear", "sensor")]))
    by = live.cancel(job_id, reason="too dear")["result"]
    assert by is not None
    assert live.why(job_id)["message"] == f"the job was cancelled by {by['by']}: too dear"
    assert {failed["cause"], live.why(job_id)["cause"]} == {"ended"}


def test_an_unknown_job_has_no_diagnosis(client: Client) -> None:
    with pytest.raises(JobNotFound):
        client.why("no-such-job")


def test_an_unreachable_store_or_broker_is_a_cause(tmp_path: Path, nobody: str) -> None:
    with ValkeyServer(tmp_path / "own") as server:
        job_id = Client(Settings(redis_url=server.url)).run_manifest(single("true"))
        found = Client(Settings(redis_url=server.url, broker_url=f"redis://{nobody}/0")).why(job_id)
        assert found["cause"] == "broker_away"
        assert nobody in found["message"]
        assert "MIRROR_NEURON_BROKER_URL" in found["hint"]
        server.stop()
        found = Client(Settings(redis_url=server.url)).why(job_id)
        assert found["cause"] == "store_away"
        assert found["message"].startswith(f"the job store at {server.url} does not answer (")
        assert found["hint"] == "start it, or set MIRROR_NEURON_REDIS_URL; jobs continue when it is back"
