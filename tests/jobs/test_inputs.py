"""A bundle is code and graph: jobs that differ only in inputs and metadata share all that is kept of their bundle."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron import JobExists, ManifestError, aio, validate_manifest
from mirrorneuron.api.client import Client
from mirrorneuron.bundle.load import bundle_digest
from mirrorneuron.message import encode
from mirrorneuron.store.job_store import Store
from tests.support.graphs import PATIENCE_MS, agent, line, manifest, single

WARM = """
import os, sys
from mirrorneuron import Agent

class Warm(Agent):
    def handle(self, message, context):
        sys.modules.setdefault("first_input", message.body["n"])  # as a slow import: once for each child
        context.complete_job([os.getpid(), message.body["n"], sys.modules["first_input"]])
"""


def manifests(client: Client) -> set[bytes]:
    store = Store(client.settings)
    return set(store.client.scan_iter(f"{store.keys.manifest('*')}"))


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    """A bundle of one module that tells its process and the first input which that process got."""
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "m.py").write_text(WARM)
    graph = manifest([agent("a", "module", module="m:Warm", module_source="m.py")], graph_id=tmp_path.name)
    (tmp_path / "manifest.json").write_text(json.dumps(graph))
    return tmp_path


def test_jobs_with_other_inputs_share_one_stored_bundle_and_its_warm_children(client: Client, warm: Path) -> None:
    """By both ways to give a job its inputs. The node has two slots, each with a child of its own."""
    before, bundle = manifests(client), validate_manifest(warm)
    outputs = []
    for n in range(8):
        if n % 2:
            bundle.manifest.initial_inputs = {"a": [{"n": n}]}
            bundle.manifest.metadata = {"n": n}
            job_id, job = client.run_manifest(job_bundle=bundle, await_=True, timeout=PATIENCE_MS)
        else:
            job_id, job = client.run_manifest(warm, inputs={"a": {"n": n}}, await_=True, timeout=PATIENCE_MS)
        assert job["status"] == "completed", job["result"]
        assert client.inspect_job(job_id)["metadata"] == ({"n": n} if n % 2 else {})
        outputs.append(job["result"]["output"])
    assert [seen for _, seen, _ in outputs] == list(range(8))
    assert len({pid for pid, _, _ in outputs}) == len({first for _, _, first in outputs}) <= 2
    assert len(manifests(client) - before) == 1


def test_inputs_of_a_submission_reach_the_job_by_threads_and_by_asyncio(client: Client) -> None:
    _, job = client.run_manifest(line(3), inputs={"r0": {"n": 1}}, await_=True, timeout=PATIENCE_MS)
    assert job["result"]["output"]["messages"] == [{"n": 1}]
    _, job = asyncio.run(
        aio.Client(client.settings).run_manifest(line(3), inputs={"r0": [{"n": 2}]}, await_=True, timeout=PATIENCE_MS)
    )
    assert job["result"]["output"]["messages"] == [{"n": 2}]


@pytest.mark.parametrize("wrong", [[1], "r0", 3])
def test_inputs_are_a_mapping(unserved: Client, wrong: Any) -> None:
    with pytest.raises(TypeError, match="inputs must map node ids to payloads"):
        unserved.run_manifest(line(3), inputs=wrong)
    with pytest.raises(ManifestError, match=r'inputs\.r9: no node "r9"'):
        unserved.run_manifest(line(3), inputs={"r9": {}})
    assert unserved.list_jobs() == []


def test_a_taken_id_is_the_same_job_only_with_the_same_inputs(unserved: Client) -> None:
    bundle = validate_manifest({**line(3), "initial_inputs": {"r0": [{"p": 1, "q": 2}]}})
    unserved.run_manifest(job_bundle=bundle, job_id="taken")
    for same in ({"q": 2, "p": 1}, [{"p": 1, "q": 2}]):
        assert unserved.run_manifest(line(3), inputs={"r0": same}, job_id="taken", metadata={"n": 1}) == "taken"
    for other in ({"p": 1, "q": 3}, [{"p": 1, "q": 2}] * 2, {"p": 1, "q": "2"}):
        with pytest.raises(JobExists, match="with other inputs"):
            unserved.run_manifest(line(3), inputs={"r0": other}, job_id="taken")
    with pytest.raises(JobExists, match="with another bundle"):
        unserved.run_manifest(line(4), inputs={"r0": {"p": 1, "q": 2}}, job_id="taken")


def test_the_manifest_of_a_job_has_its_metadata_and_no_inputs(unserved: Client) -> None:
    graph = {**line(3), "metadata": {"tenant": "acme"}}
    job_id = unserved.run_manifest(graph, inputs={"r0": {"n": 1}}, metadata={"n": 2})
    found = unserved.job_manifest(job_id)
    assert (found.metadata, found.initial_inputs) == ({"tenant": "acme", "n": 2}, {})
    assert [node.node_id for node in found.nodes] == ["r0", "r1", "end"]


def test_a_retry_uses_the_inputs_of_its_own_job(client: Client, tmp_path: Path) -> None:
    """From the failed run, and from the start: the messages of a job are its own."""
    gate = tmp_path / "gate"
    script = f'test -e {gate} && cat "$MN_INPUT_FILE"'
    first, second = (client.run_manifest(single(script), inputs={"work": {"n": n}}) for n in (1, 2))
    for job_id in (first, second):
        assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] == "failed"
    gate.touch()
    for n, job_id, start in ((1, first, None), (2, second, "work")):
        client.retry(job_id, from_agent=start)
        job = client.wait_for_job(job_id, timeout=PATIENCE_MS)
        assert json.loads(job["result"]["output"]["sandbox"]["stdout"]) == {"n": n}
    assert client.inspect_job(first)["manifest_ref"]["digest"] == client.inspect_job(second)["manifest_ref"]["digest"]


def test_a_job_of_an_earlier_version_is_read_compared_and_run(client: Client) -> None:
    """Its inputs and metadata are part of its stored bundle, and its record has no digest of the inputs."""
    job_id = earlier_job(client, {**line(3), "initial_inputs": {"r0": [{"n": 1}]}, "metadata": {"tenant": "acme"}})
    assert client.job_manifest(job_id).metadata == {"tenant": "acme"}
    assert len(client.inspect_agents(job_id)) == 3
    with pytest.raises(JobExists, match="with other inputs"):
        client.run_manifest(line(3), inputs={"r0": {"n": 2}}, job_id=job_id)
    with pytest.raises(JobExists, match="with another bundle"):
        client.run_manifest(line(4), inputs={"r0": {"n": 1}}, job_id=job_id)
    assert client.run_manifest(line(3), inputs={"r0": {"n": 1}}, job_id=job_id) == job_id  # announces it
    job = client.wait_for_job(job_id, timeout=PATIENCE_MS)
    assert (job["status"], job["result"]["output"]["messages"]) == ("completed", [{"n": 1}])


def earlier_job(client: Client, graph: dict[str, Any]) -> str:
    """Create a pending job in the form of earlier versions, without an announcement."""
    stage = Client(client.settings.model_copy(update={"broker_url": "memory://"}))  # no worker hears of it
    job_id = stage.run_manifest(graph)
    store = Store(client.settings)
    text = encode([validate_manifest(graph).manifest])[1:-1]
    digest = bundle_digest(text, None)
    store.client.set(store.keys.manifest(digest), b'{"manifest":%b,"payloads":null}' % text, ex=600)
    static = stage.inspect_job(job_id)
    old = {**static, "manifest_ref": {**static["manifest_ref"], "digest": digest}}
    store.client.hset(store.keys.job(job_id), mapping={"digest": digest, "static": encode(old)})
    store.client.hdel(store.keys.job(job_id), "inputs")
    store.client.close()
    return job_id
