"""Module agents end to end: the bundle's own Python code, including code that fails."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.errors import ManifestError
from tests.support.graphs import agent, completed, ended, failed, manifest, payloads, router, snapshots

SOURCE = """
import os, pathlib, signal, time
from mirrorneuron import Agent

class Sum(Agent):
    def handle(self, message, context):
        self.state["sum"] = self.state.get("sum", 0) + message.body
        self.state["bodies"] = self.state.get("bodies", []) + [message.body]
        context.event("added", {"sum": self.state["sum"], "from": message.sender, "type": message.type})
        if len(self.state["bodies"]) == context.config["count"]:
            context.emit("total", self.state["sum"], headers={"counted": True})
            context.emit("aside", "direct", to="aside")

class Batches(Agent):
    def handle(self, message, context):
        context.event("batch", message.body)

class Last(Agent):
    def handle(self, message, context):
        context.complete_job({"body": message.body, "headers": dict(message.headers), "agent": context.agent_id})

class Raises(Agent):
    def handle(self, message, context):
        self.state["spoilt"] = True
        context.event("never_seen", None)
        raise ValueError("no such lamp")

class FailsOnce(Agent):
    def handle(self, message, context):
        mark = pathlib.Path(context.config["mark"])
        self.state["runs"] = self.state.get("runs", 0) + 1
        if not mark.exists():
            mark.touch()
            raise RuntimeError("once")
        context.complete_job(self.state["runs"])

class Spins(Agent):
    def handle(self, message, context):
        while True:
            pass

class Crashes(Agent):
    def handle(self, message, context):
        os.kill(os.getpid(), signal.SIGSEGV)

class Leaves(Agent):
    def handle(self, message, context):
        os._exit(5)

class SaysNoJson(Agent):
    def handle(self, message, context):
        context.emit("x", {1, 2})
"""


@pytest.fixture
def bundle(tmp_path):
    """Write a bundle of module agents; its payloads are the classes above."""

    def write(nodes: list[dict[str, Any]], edges: Any = (), **more: Any) -> Path:
        folder = tmp_path / "bundle"
        (folder / "payloads").mkdir(parents=True)
        (folder / "payloads" / "lamps.py").write_text(textwrap.dedent(SOURCE))
        (folder / "manifest.json").write_text(json.dumps(manifest(nodes, edges, **more)))
        return folder

    return write


def module(node_id: str, name: str, template: str = "generic", **config: Any) -> dict[str, Any]:
    return agent(node_id, "module", template, module=f"lamps:{name}", module_source="lamps.py", **config)


def test_a_module_keeps_its_state_from_message_to_message(client, bundle):
    """Three messages, one at a time and in order; the module emits along its edges, and to an agent by name."""
    nodes = [module("sum", "Sum", count=3), module("last", "Last"), router("aside")]
    folder = bundle(nodes, [("sum", "last", "total")], initial_inputs={"sum": [1, 2, 3]})
    job = ended(client, folder)
    assert job["result"]["output"] == {"body": 6, "headers": {"counted": True}, "agent": "last"}
    found = snapshots(client, job["job_id"])
    assert found["sum"]["current_state"] == {"sum": 6, "bodies": [1, 2, 3]}
    assert found["sum"]["processed_messages"] == 3
    told = payloads(client, job["job_id"], "added")
    assert told == [{"sum": total, "from": "runtime", "type": "init"} for total in (1, 3, 6)]


def test_an_exception_fails_the_job_with_its_traceback(client, bundle):
    """And the run has no effect: no event, no state."""
    job = ended(client, bundle([module("lamp", "Raises")]))
    assert job["status"] == "failed"
    assert (job["result"]["agent_id"], job["result"]["error"]) == ("lamp", "ValueError: no such lamp")
    trace = job["result"]["details"]["traceback"]
    assert "lamps.py" in trace
    assert 'raise ValueError("no such lamp")' in trace
    assert payloads(client, job["job_id"], "never_seen") == []
    assert snapshots(client, job["job_id"])["lamp"]["current_state"] == {}


def test_a_module_is_retried_like_an_executor(client, bundle, outside):
    """With the state that it had before the failed run."""
    node = module("lamp", "FailsOnce", mark=str(outside / "mark"), max_attempts=2, retry_backoff_ms=0)
    job = ended(client, bundle([node]))
    assert (job["status"], job["result"]["output"]) == ("completed", 1)
    assert len(payloads(client, job["job_id"], "executor_retry")) == 1


@pytest.mark.parametrize(
    ("name", "config", "error", "detail"),
    [
        ("Spins", {"timeout_seconds": 0.3}, "timed out after 0.3 s", {}),
        ("Crashes", {}, "child was killed by signal SIGSEGV", {"signal": "SIGSEGV"}),
        ("Leaves", {}, "child ended with exit code 5", {"exit_code": 5}),
    ],
)
def test_a_module_that_hangs_or_dies_fails_only_its_own_job(client, bundle, name, config, error, detail):
    """The node keeps running, and starts another child for the next message."""
    result = failed(client, bundle([module("lamp", name, **config)]))
    assert result["error"] == error
    assert result["details"].items() >= {**detail, "attempts": 1}.items()


def test_a_module_that_emits_invalid_json_fails_with_the_reason(client, bundle):
    result = failed(client, bundle([module("lamp", "SaysNoJson")]))
    assert "set" in result["error"]
    assert "x" in result["error"]


def test_a_missing_class_fails_with_its_name(client, bundle):
    """Validation sees that a source lacks a class, unless the source may bind the name when it is imported."""
    folder = bundle([module("lamp", "Nobody")])
    with pytest.raises(ManifestError, match="has no class Nobody"):
        client.run_manifest(str(folder))
    source = folder / "payloads" / "lamps.py"
    source.write_text(source.read_text() + "\nglobals()['X'] = 1\n")
    result = failed(client, folder)
    assert "Nobody" in result["error"]


def test_a_batch_of_a_module_is_one_run(client, bundle):
    """Five messages, two per run, and the last one before the job counts as idle."""
    node = module("many", "Batches", "batch", batch_size=2)
    folder = bundle([node], initial_inputs={"many": [{"body": n} for n in range(5)]})
    job = ended(client, folder)
    assert payloads(client, job["job_id"], "batch") == [[0, 1], [2, 3], [4]]
    metadata = snapshots(client, job["job_id"])["many"]["metadata"]
    assert (metadata["batch_size"], metadata["flushed_batches"]) == (2, 3)


def test_modules_of_two_bundles_do_not_see_each_other(client, bundle, tmp_path):
    """The same module name, other code: each job gets its own bundle's."""
    folder = bundle([module("last", "Last")])
    other = tmp_path / "other"
    (other / "payloads").mkdir(parents=True)
    (other / "manifest.json").write_text((folder / "manifest.json").read_text())
    changed = textwrap.dedent(SOURCE).replace('{"body": message.body', '{"other": message.body')
    (other / "payloads" / "lamps.py").write_text(changed)
    assert completed(client, folder).keys() == {"body", "headers", "agent"}
    assert completed(client, other).keys() == {"other", "headers", "agent"}
