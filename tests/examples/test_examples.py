"""Every example runs unchanged on worker processes and gives the output that its README states."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron import validate_manifest
from mirrorneuron.api.client import Client
from mirrorneuron.job import JobMap

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/manifest.json"))
PATIENCE_MS = 60_000


def run(client: Client, folder: Path) -> JobMap:
    """Run a bundle to its end; it must complete."""
    _, job = client.run_manifest(folder, await_=True, timeout=PATIENCE_MS)
    assert job["status"] == "completed", job["result"]
    return job


def research_flow(output: Any) -> None:
    query = {"query": "How do lighthouses tell sailors which one they are?", "max_sources": 3}
    assert output == {"messages": [query], "count": 1, "last_message": query}


def prime_sweep_scale(output: Any) -> None:
    assert output == {"prime_count": 9592, "largest": 99991, "ranges": 40, "limit": 100_000}


def document_summarizer(output: Any) -> None:
    documents = list((EXAMPLES / "document_summarizer" / "payloads" / "documents").glob("*.txt"))
    words = sum(len(path.read_text(encoding="utf-8").split()) for path in documents)
    assert (output["documents"], output["total_words"]) == (len(documents), words)
    assert sorted(row.partition(":")[0] for row in output["digest"]) == sorted(path.stem for path in documents)


def streaming_peaks(output: Any) -> None:
    found = {name: output[name] for name in ("stream_id", "chunks", "samples", "peak_count")}
    assert found == {"stream_id": "buoy-7", "chunks": 6, "samples": 96, "peak_count": 6}
    assert [peak["t"] for peak in output["peaks"]] == sorted(peak["t"] for peak in output["peaks"])
    assert 79 in [peak["t"] for peak in output["peaks"]]


def counter_module(output: Any) -> None:
    assert output == {"count": 50}


def conditional_route(output: Any) -> None:
    (message,) = output["messages"]
    assert message["agent_id"] == "low_handler"
    assert json.loads(message["sandbox"]["stdout"]) == {"reading": 12, "action": "open the valve"}


OUTPUTS = (
    research_flow,
    prime_sweep_scale,
    document_summarizer,
    streaming_peaks,
    counter_module,
    conditional_route,
)

#: event type -> number of such events of an example's job
EVENTS: dict[str, dict[str, int]] = {
    "research_flow": {"agent_message_received": 2, "aggregator_received": 1},
    "prime_sweep_scale": {"sandbox_job_completed": 41, "executor_lease_acquired": 41, "executor_lease_released": 41},
    "document_summarizer": {"sandbox_job_completed": 7},
    "streaming_peaks": {"sandbox_job_completed": 7, "peak_detected": 6},
    "counter_module": {"counter_progress": 5, "agent_message_received": 50},
    "conditional_route": {"sandbox_job_completed": 2},
}

#: agent -> number of messages that it consumes
PROCESSED: dict[str, dict[str, int]] = {
    "research_flow": {"ingress": 1, "retriever": 1, "reviewer": 1},
    "prime_sweep_scale": {"dispatcher": 1, "range_01": 1, "range_40": 1, "collector": 40, "summary": 1},
    "document_summarizer": {"splitter": 1, "mapper_a": 3, "mapper_b": 2, "collector": 5, "reducer": 1},
    "streaming_peaks": {"source": 1, "detector": 6},
    "counter_module": {"counter": 50},
    "conditional_route": {"classifier": 1, "low_handler": 1, "high_handler": 0, "other_handler": 0, "outcome": 1},
}


@pytest.fixture(scope="module")
def jobs(client: Client) -> dict[str, JobMap]:
    """All examples, submitted at once and run concurrently."""
    ids = {name: client.run_manifest(EXAMPLES / name) for name in NAMES}
    return {name: client.wait_for_job(job_id, timeout=PATIENCE_MS) for name, job_id in ids.items()}


def test_every_example_has_its_expectations():
    assert NAMES == sorted(check.__name__ for check in OUTPUTS) == sorted(EVENTS) == sorted(PROCESSED)


@pytest.mark.parametrize("check", OUTPUTS, ids=lambda check: check.__name__)
def test_an_example_gives_the_output_that_its_readme_states(jobs, check):
    job = jobs[check.__name__]
    assert job["status"] == "completed", job["result"]
    check(job["result"]["output"])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_does_what_its_graph_says(client, jobs, name):
    """Each agent consumes the messages of its edges, the events record them, and no message is lost."""
    job_id = jobs[name]["job_id"]
    found = [event["type"] for event in client.events(job_id)]
    assert {kind: found.count(kind) for kind in EVENTS[name]} == EVENTS[name]
    lost = {"message_unrouted", "dead_letter", "message_expired", "sandbox_output_cut", "executor_retry", "job_failed"}
    assert lost.isdisjoint(found)
    processed = {agent["agent_id"]: agent["processed_messages"] for agent in client.inspect_agents(job_id)}
    assert {agent: processed[agent] for agent in PROCESSED[name]} == PROCESSED[name]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_no_validation_warnings(name):
    assert validate_manifest(EXAMPLES / name).warnings == ()


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_readme_names_its_own_folder(name):
    """Every `mn run examples/...` in a README names its folder, and there is at least one."""
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    folders = re.findall(r"mn run (examples/\S+)", text)
    assert set(folders) == {f"examples/{name}"}
    assert (EXAMPLES.parent / folders[0] / "manifest.json").is_file()


def test_the_peaks_are_events_too(client, jobs):
    """Each peak of the output has an event, in order."""
    events = client.events(jobs["streaming_peaks"]["job_id"])
    recorded = [event["payload"] for event in events if event["type"] == "peak_detected"]
    assert recorded == jobs["streaming_peaks"]["result"]["output"]["peaks"]


def test_a_sweep_of_another_width_runs(client, tmp_path):
    """The generator's bundle for twelve workers finds the primes below 1,000."""
    options = ["--workers", "12", "--limit", "1000", "--out", str(tmp_path / "sweep")]
    generator = EXAMPLES / "prime_sweep_scale" / "generate.py"
    subprocess.run([sys.executable, str(generator), *options], check=True, capture_output=True, timeout=60)
    output = run(client, tmp_path / "sweep")["result"]["output"]
    assert output == {"prime_count": 168, "largest": 997, "ranges": 12, "limit": 1000}


@pytest.mark.parametrize(("reading", "handler"), [(95, "high_handler"), (50, "other_handler")])
def test_another_reading_takes_another_route(client, reading, handler):
    bundle = validate_manifest(EXAMPLES / "conditional_route")
    bundle.manifest.initial_inputs = {"classifier": [{"reading": reading}]}
    _, job = client.run_manifest(job_bundle=bundle, await_=True, timeout=PATIENCE_MS)
    assert job["result"]["output"]["messages"][0]["agent_id"] == handler
