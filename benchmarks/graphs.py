"""The graphs that the benchmarks run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from benchmarks import work
from mirrorneuron import JobBundle, validate_manifest

PAYLOADS = Path(__file__).parent / "payloads"


def python_chain(steps: int = work.STEPS) -> JobBundle:
    """Module agents that follow each other; the last one ends the job."""
    nodes = [_module(f"step{n}") for n in range(steps)]
    nodes[-1]["config"]["last"] = True
    return _bundle("python_chain", nodes, _in_line(nodes))


def router_chain(steps: int = work.STEPS) -> JobBundle:
    """Light agents that follow each other: routers, and an aggregator that ends the job. No code of a user runs."""
    nodes = [_router(f"step{n}") for n in range(steps)]
    nodes[-1] |= {"agent_type": "aggregator", "config": {"complete_after": 1}}
    return _bundle("router_chain", nodes, _in_line(nodes))


def python_fan(width: int) -> JobBundle:
    """A module sends to *width* modules, which send to an aggregator that ends the job."""
    nodes = [_module("source"), *(_module(f"step{n}") for n in range(width))]
    return _fan("python_fan", nodes)


def router_fan(width: int) -> JobBundle:
    """The same of routers."""
    nodes = [_router("source"), *(_router(f"step{n}") for n in range(width))]
    return _fan("router_fan", nodes)


def command() -> JobBundle:
    """One command."""
    config = {"command": list(work.COMMAND), "complete_job": True}
    return _bundle("command", [{"node_id": "step0", "agent_type": "executor", "config": config}], [])


def waiting() -> JobBundle:
    """A job that needs nothing: an aggregator with one message waits for another one."""
    config = {"complete_after": 2}
    return _bundle("waiting", [{"node_id": "step0", "agent_type": "aggregator", "config": config}], [])


def with_input(bundle: JobBundle, job: int) -> JobBundle:
    """*bundle* with the input of *job*, given as the documents say: `initial_inputs` of the loaded bundle is set."""
    bundle.manifest.initial_inputs = {bundle.manifest.nodes[0].node_id: [work.body(job)]}
    return bundle


def _module(name: str) -> dict[str, Any]:
    return {"node_id": name, "agent_type": "module", "config": {"module": "steps:Step", "module_source": "steps.py"}}


def _router(name: str) -> dict[str, Any]:
    return {"node_id": name, "agent_type": "router", "config": {"emit_type": "next"}}


def _in_line(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_edge(a["node_id"], b["node_id"]) for a, b in itertools.pairwise(nodes)]


def _edge(source: str, target: str) -> dict[str, Any]:
    return {"from_node": source, "to_node": target, "message_type": "next"}


def _fan(name: str, nodes: list[dict[str, Any]]) -> JobBundle:
    source, *steps = (node["node_id"] for node in nodes)
    join = {"node_id": "join", "agent_type": "aggregator", "config": {"complete_after": len(steps)}}
    edges = [edge for step in steps for edge in (_edge(source, step), _edge(step, "join"))]
    return _bundle(name, [*nodes, join], edges)


def _bundle(name: str, nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> JobBundle:
    manifest = {
        "manifest_version": "1.0",
        "graph_id": name,
        "entrypoints": [nodes[0]["node_id"]],
        "initial_inputs": {nodes[0]["node_id"]: [work.body(0)]},
        "nodes": nodes,
        "edges": edges,
    }
    modules = any(node["agent_type"] == "module" for node in nodes)
    return validate_manifest(manifest, payloads=PAYLOADS if modules else None)
