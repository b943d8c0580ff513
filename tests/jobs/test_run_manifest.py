"""run_manifest: its arguments, its return values, and its idempotence."""

from __future__ import annotations

import json
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from mirrorneuron import JobExists, ManifestError, WaitTimeout, validate_manifest
from mirrorneuron.api.client import Client
from tests.support.graphs import PATIENCE_MS, completed, executor, kinds, line, manifest, router, single, until_there


def folder_of(path: Path, graph: dict, **files: str) -> Path:
    """Write *graph* as a bundle folder with payload *files*."""
    (path / "payloads").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps(graph))
    for name, text in files.items():
        (path / "payloads" / name).write_text(text)
    return path


@pytest.mark.parametrize(("graph_id", "stem"), [("research_flow", "research_flow"), ("a b/ü:1", "a-b---1")])
def test_a_default_job_id_is_graph_id_time_and_random_digits(unserved, graph_id, stem):
    """`{graph_id}-{unix ms}-{12 hex digits}`, with `-` for characters that are not allowed in an id."""
    first, second = (unserved.run_manifest({**line(3), "graph_id": graph_id}) for _ in range(2))
    assert re.fullmatch(rf"{re.escape(stem)}-\d{{13}}-[0-9a-f]{{12}}", first)
    assert first != second
    assert unserved.inspect_job(first)["graph_id"] == graph_id


def test_without_await_the_job_id_is_returned(client):
    job_id = client.run_manifest(line(3))
    assert isinstance(job_id, str)
    assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] == "completed"


def test_with_await_the_final_job_map_is_returned_too(client):
    job_id, job = client.run_manifest(line(3), await_=True, timeout=PATIENCE_MS)
    assert job["job_id"] == job_id
    assert job == client.inspect_job(job_id)
    assert job["result"] == {"agent_id": "end", "output": {"messages": [{}], "count": 1, "last_message": {}}}


def test_a_failed_job_raises_no_exception(client):
    _, job = client.run_manifest(single("exit 3"), await_=True, timeout=PATIENCE_MS)
    assert (job["status"], job["result"]["error"]) == ("failed", "command exited with code 3")


@pytest.mark.parametrize("timeout", [30, 30.5, timedelta(milliseconds=30), 0])
def test_a_timeout_is_milliseconds_or_a_timedelta_and_does_not_affect_the_job(unserved, timeout):
    with pytest.raises(WaitTimeout) as caught:
        unserved.run_manifest(line(3), await_=True, timeout=timeout, job_id="slow")
    assert caught.value.job_id == "slow"
    assert isinstance(caught.value, TimeoutError)
    assert unserved.inspect_job("slow")["status"] == "pending"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"input": line(3), "job_bundle": validate_manifest(line(3))},
        {"input": line(3), "timeout": 5},
        {"input": line(3), "await_": True, "timeout": "5"},
        {"input": line(3), "await_": True, "timeout": True},
    ],
    ids=["nothing to run", "two to run", "timeout without await", "timeout as text", "timeout as bool"],
)
def test_invalid_arguments_are_type_errors_and_submit_nothing(unserved, arguments):
    with pytest.raises(TypeError):
        unserved.run_manifest(**arguments)
    assert unserved.list_jobs() == []


@pytest.mark.parametrize("job_id", ["", "a b", "ü", "x" * 129, "a/b", "a\n", ".", "..", "-x", "_x"])
def test_an_invalid_job_id_is_a_manifest_error(unserved, job_id):
    with pytest.raises(ManifestError, match="is not a valid job id") as caught:
        unserved.run_manifest(line(3), job_id=job_id)
    assert caught.value.issues[0].path == "job_id"
    assert unserved.list_jobs() == []


def test_the_same_id_and_bundle_are_the_same_job(client):
    """The job runs once, however often it is submitted, during the run and after its end."""
    assert client.run_manifest(line(3), job_id="submitted-once") == "submitted-once"
    assert completed(client, line(3), job_id="submitted-once")["count"] == 1
    before = kinds(client, "submitted-once")
    assert completed(client, line(3), job_id="submitted-once")["count"] == 1
    assert kinds(client, "submitted-once") == before
    assert before.count("job_pending") == before.count("job_completed") == 1


def test_the_order_of_keys_does_not_change_the_bundle(unserved):
    """JSON objects are unordered, and a database may have reordered the keys of a manifest."""
    first = manifest([{"node_id": "a", "agent_type": "router"}], initial_inputs={"a": {"p": [1, 2], "q": 2}})
    second = {
        **first,
        "initial_inputs": {"a": {"q": 2, "p": [1, 2]}},
        "nodes": [{"agent_type": "router", "node_id": "a"}],
    }
    for graph in (first, second):
        assert unserved.run_manifest(graph, job_id="ordered") == "ordered"
    assert kinds(unserved, "ordered") == ["job_pending", "job_validated"]
    with pytest.raises(JobExists):
        unserved.run_manifest({**second, "initial_inputs": {"a": {"q": 2, "p": [2, 1]}}}, job_id="ordered")


def test_a_taken_job_id_is_refused_for_another_bundle(unserved):
    unserved.run_manifest(line(3), job_id="taken")
    before = unserved.inspect_job("taken")
    with pytest.raises(JobExists, match="'taken' already exists with another bundle; choose another job id"):
        unserved.run_manifest(line(4), job_id="taken")
    assert unserved.inspect_job("taken") == before


def test_a_modified_bundle_runs_as_modified(client):
    """`validate_manifest`, then a change, then `job_bundle=`: the change counts."""
    bundle = validate_manifest(line(3))
    bundle.manifest.initial_inputs["r0"] = [{"body": "changed"}]
    assert completed_bundle(client, bundle)["last_message"] == "changed"


def completed_bundle(client: Client, bundle):
    _, job = client.run_manifest(job_bundle=bundle, await_=True, timeout=PATIENCE_MS)
    return job["result"]["output"]


def test_a_modified_bundle_is_checked_again(unserved):
    bundle = validate_manifest(line(3))
    bundle.manifest.edges[0].to_node = "nobody"
    with pytest.raises(ManifestError, match="nobody"):
        unserved.run_manifest(job_bundle=bundle)
    assert unserved.list_jobs() == []


@pytest.mark.parametrize("form", ["text", "path", "bundle", "mapping"])
def test_a_bundle_is_a_folder_a_manifest_or_a_job_bundle(client, tmp_path, form):
    folder = folder_of(tmp_path / "bundle", line(3))
    forms = {"text": str(folder), "path": folder, "bundle": validate_manifest(folder), "mapping": line(3)}
    assert completed(client, forms[form])["count"] == 1


def test_a_submitted_bundle_does_not_change_with_its_folder(client, tmp_path, outside):
    """The manifest and the payloads of a job are those of the moment at which it was submitted."""
    nodes = [
        executor("first", until_there(outside / "gate"), output_message_type="go"),
        executor("second", "cat word", complete_job=True, uploads=[{"source": "word", "target": "word"}]),
    ]
    folder = folder_of(tmp_path / "bundle", manifest(nodes, [("first", "second", "go")]), word="before")
    job_id = client.run_manifest(folder)
    (folder / "payloads" / "word").write_text("after")
    (folder / "manifest.json").write_text(json.dumps(manifest([router("other")])))
    shutil.rmtree(folder)
    (outside / "gate").touch()
    job = client.wait_for_job(job_id, timeout=PATIENCE_MS)
    assert job["result"]["output"]["sandbox"]["stdout"] == "before"
