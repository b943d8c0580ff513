"""Manifests for tests, with cheap commands, and common helpers to run and inspect jobs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirrorneuron.api.client import Client
from mirrorneuron.job import JobMap, JobStatus
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import Keys
from mirrorneuron.store.protocol import JobEnd, JobRef

PATIENCE_MS = 60_000  # after which a job fails its test; a passing test does not wait for it

Node = dict[str, Any]


def manifest(nodes: Sequence[Node], edges: Sequence[Sequence[Any]] = (), **more: Any) -> dict[str, Any]:
    """A manifest that starts at its first node. An edge is (from, to, type) and optionally its other keys."""
    rows = []
    for source, target, kind, *rest in edges:
        rows.append({"from_node": source, "to_node": target, "message_type": kind, **(rest[0] if rest else {})})
    return {
        "manifest_version": "1.0",
        "graph_id": "graph",
        "entrypoints": [nodes[0]["node_id"]],
        "nodes": list(nodes),
        "edges": rows,
        **more,
    }


def agent(node_id: str, agent_type: str, template: str = "generic", **config: Any) -> Node:
    return {"node_id": node_id, "agent_type": agent_type, "type": template, "config": config}


def router(node_id: str, emit_type: str = "go") -> Node:
    return agent(node_id, "router", emit_type=emit_type)


def collector(node_id: str, complete_after: int = 1) -> Node:
    return agent(node_id, "aggregator", complete_after=complete_after)


def executor(node_id: str, script: str, template: str = "generic", **config: Any) -> Node:
    """An executor that runs a line of shell."""
    return agent(node_id, "executor", template, command=["sh", "-c", script], **config)


def single(script: str, *, inputs: Any = None, **config: Any) -> dict[str, Any]:
    """A graph of one executor, `work`, which completes the job unless its config says otherwise."""
    node = executor("work", script, **{"complete_job": True, **config})
    more: dict[str, Any] = {} if inputs is None else {"initial_inputs": {"work": inputs}}
    return manifest([node], **more)


def line(length: int) -> dict[str, Any]:
    """Routers in a row, and an aggregator that completes the job."""
    names = [f"r{number}" for number in range(length - 1)]
    edges = [(one, other, "go") for one, other in zip(names, [*names[1:], "end"], strict=True)]
    return manifest([*(router(name) for name in names), collector("end")], edges)


def fan(leaves: Sequence[Node], emit_type: str) -> dict[str, Any]:
    """A router, *leaves* that each answer one message with *emit_type*, and an aggregator for all of them."""
    names = [leaf["node_id"] for leaf in leaves]
    edges = [("spread", name, "go") for name in names] + [(name, "all", emit_type) for name in names]
    return manifest([router("spread"), *leaves, collector("all", len(names))], edges)


def light_fan(width: int) -> dict[str, Any]:
    return fan([router(f"leaf{number}", "done") for number in range(width)], "done")


def until_there(path: Path) -> str:
    """A line of shell that waits for *path*."""
    return f"while [ ! -e {shlex.quote(str(path))} ]; do sleep 0.02; done"


def ended(client: Client, graph: Any, **more: Any) -> JobMap:
    """Run *graph* to its end."""
    _, job = client.run_manifest(graph, await_=True, timeout=PATIENCE_MS, **more)
    return job


def completed(client: Client, graph: Any, **more: Any) -> Any:
    """Run *graph*, which must complete, and return its output."""
    job = ended(client, graph, **more)
    assert job["status"] == "completed", job["result"]
    return job["result"]["output"]


def failed(client: Client, graph: Any, **more: Any) -> dict[str, Any]:
    """Run *graph*, which must fail, and return its result: agent_id, error, details."""
    job = ended(client, graph, **more)
    assert job["status"] == "failed", job["result"]
    assert set(job["result"]) == {"agent_id", "error", "details"}
    return job["result"]


def finish(client: Client, job_id: str, status: JobStatus = JobStatus.CANCELLED) -> None:
    """End a live job from outside, as an operator would."""
    store = Store(client.settings)
    job = store.ref(job_id)
    assert job is not None
    agents = list(store.plan(job.digest)[0].nodes)
    store.scripts.finish(job, JobEnd(status, b'{"reason":"the test is over"}'), agents)
    store.index.mark_ended([job_id])
    store.client.close()


def job_ref(client: Client, job_id: str) -> JobRef:
    store = Store(client.settings)
    found = store.ref(job_id)
    store.client.close()
    assert found is not None
    return found


def kinds(client: Client, job_id: str) -> list[str]:
    """The types of the job's events, in order."""
    return [event["type"] for event in client.events(job_id)]


def payloads(client: Client, job_id: str, kind: str) -> list[Any]:
    """The payloads of the job's events of one type, in order."""
    return [event.get("payload") for event in client.events(job_id) if event["type"] == kind]


def snapshots(client: Client, job_id: str) -> dict[str, Any]:
    return {agent["agent_id"]: agent for agent in client.inspect_agents(job_id)}


def processed(client: Client, job_id: str) -> dict[str, int]:
    """Agent -> messages that it has consumed."""
    return {name: agent["processed_messages"] for name, agent in snapshots(client, job_id).items()}


def keys_of(client: Client) -> Keys:
    return Keys(client.settings.redis_namespace)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # it has just ended, or the system has no /proc
        return not Path("/proc/self").exists()
