"""Manifests: one that uses every key, and strategies for nearly valid ones."""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Final

from hypothesis import strategies as st

from mirrorneuron.bundle.manifest import (
    AGENT_TYPE_ALIASES,
    AgentType,
    Edge,
    Manifest,
    Node,
    OnIdle,
    Policies,
    RoutingMode,
    Template,
)
from mirrorneuron.bundle.node_config import KEYS, UPLOAD_KEYS
from mirrorneuron.bundle.schema import Model, words
from tests.support.fuzzing.values import JSON, Strategy

NAMES = st.sampled_from(["a", "b", "c"])
CONDITIONS = st.sampled_from(["body.x == 'y'", '${payload.x} == "y"', "x"])

EVERYTHING: Final[dict[str, Any]] = {  # valid beside payloads/ with `main.py` and `data/`
    "manifest_version": "1.0",
    "graph_id": "everything",
    "job_name": "All there is",
    "daemon": False,
    "metadata": {"owner": "me", "tags": ["x", 1, None]},
    "entrypoints": ["in"],
    "initial_inputs": {"in": [{"body": {"n": 1}, "headers": {"h": 1}}, {"envelope": {"type": "go"}, "payload": 2}, 3]},
    "nodes": [
        {"node_id": "in", "agent_type": "relay", "type": "map", "role": "root", "config": {"emit_type": "go"}},
        {
            "node_id": "run",
            "agent_type": "executor",
            "type": "batch",
            "config": {
                "command": ["python3", "{workdir}/main.py", "{job_id}"],
                "upload_path": "data",
                "upload_as": "there",
                "uploads": [{"source": "main.py", "target": "/sandbox/job/main.py"}],
                "workdir": "/sandbox/job",
                "environment": {"A": "b", "N": 1},
                "pass_env": ["HOME"],
                "max_attempts": 2,
                "retry_backoff_ms": 10,
                "retry_on": "transient",
                "timeout_seconds": 1.5,
                "pool": "gpu",
                "pool_slots": 2,
                "batch_size": 3,
                "runner_module": "host_local",
                "output_message_type": None,
            },
            "retry_policy": {"any": "thing"},
        },
        {"node_id": "code", "agent_type": "module", "config": {"module": "main:Class", "module_source": "main.py"}},
        {
            "node_id": "all",
            "agent_type": "collector",
            "type": "accumulator",
            "config": {"complete_after": 2, "output_message_type": "done", "complete_job": True},
        },
        {"node_id": "ear", "agent_type": "sensor", "config": {"complete_job": False, "complete_on_message": True}},
    ],
    "edges": [
        {"from_node": "in", "to_node": "run", "message_type": "go", "edge_id": "e1", "routing_mode": "round_robin"},
        {
            "from_node": "in",
            "to_node": "code",
            "message_type": "*",
            "routing_mode": "first_match",
            "conditions": {"expr": '${payload.outputs.branch} == "low" && length(body.x) > 3'},
        },
        {"from_node": "run", "to_node": "all", "message_type": "executor_result"},
        {"from_node": "code", "to_node": "all", "message_type": "done", "conditions": {"expr": "body.ok"}},
        {"from_node": "all", "to_node": "in", "message_type": "done"},
    ],
    "policies": {
        "recovery_mode": "cluster_recover",
        "placement_policy": "local",
        "max_agent_restart_attempts": 3,
        "job_timeout_ms": 60_000,
        "on_idle": "wait",
        "idle_timeout_ms": 1_000,
    },
}


def keyed(model: type[Model], wild: bool, **good: Strategy) -> Strategy:
    """Objects with the model's keys and valid values; if *wild*, any key may have any JSON value."""
    needed = {"nodes", "config", *(found.name for found in fields(model) if found.default is MISSING)}
    required = {key: value for key, value in good.items() if key in needed}
    optional = {key: value | st.none() for key, value in good.items() if key not in required}
    if wild:
        optional = {key: good.get(key, JSON) | JSON for key in words(model) if key not in required}
        required = {key: st.one_of(value, value, value, JSON) for key, value in required.items()}
    return st.fixed_dictionaries(required, optional=optional)


def configs(wild: bool) -> Strategy:
    numbers, words = st.integers(1, 3) | st.none(), st.sampled_from(["x", "y"]) | st.none()
    good: dict[str, Strategy] = dict.fromkeys(
        ("complete_after", "max_attempts", "batch_size", "retry_backoff_ms"), numbers
    )
    good |= {"emit_type": words, "output_message_type": words, "complete_job": st.booleans(), "mine": JSON}
    if wild:
        good |= {key: good.get(key, numbers) | words | JSON for key in (*KEYS, *UPLOAD_KEYS, "module_source")}
    right = {"command": st.just("true"), "module": st.just("m:C")}
    return st.fixed_dictionaries(right, optional={k: v for k, v in good.items() if k not in right}) | (
        st.fixed_dictionaries({}, optional=good) if wild else st.nothing()
    )


@cache
def manifests(wild: bool) -> Strategy:
    """Valid manifests of three nodes; if *wild*, with any JSON value at any place.

    Made once: Hypothesis examines a new strategy of this size for seconds.
    """

    def node(name: str) -> Strategy:
        return keyed(
            Node,
            wild,
            node_id=st.just(name),
            agent_type=st.sampled_from([*AgentType, *AGENT_TYPE_ALIASES]),
            type=st.sampled_from([*Template, "accumulator"] if wild else [Template.GENERIC]),
            role=st.sampled_from(["root", "worker"]),
            config=configs(wild),
        )

    edge = keyed(
        Edge,
        wild,
        from_node=NAMES,
        to_node=NAMES,
        message_type=st.sampled_from(["*", "x", "y"]),
        routing_mode=st.sampled_from(list(RoutingMode)),
        conditions=st.fixed_dictionaries({"expr": CONDITIONS}),
    )
    payloads = st.integers() | st.lists(st.integers(), max_size=2) | st.dictionaries(st.just("body"), JSON)
    manifest = keyed(
        Manifest,
        wild,
        manifest_version=st.just("1.0"),
        graph_id=st.just("g"),
        job_name=st.just("n"),
        daemon=st.booleans(),
        nodes=st.tuples(*(node(name) for name in "abc")).map(list),
        edges=st.lists(edge, max_size=5),
        entrypoints=st.lists(NAMES, min_size=1, max_size=2) | NAMES,
        initial_inputs=st.dictionaries(NAMES, payloads, max_size=2) | st.lists(payloads, max_size=2),
        policies=keyed(Policies, wild, on_idle=st.sampled_from(list(OnIdle))),
    )

    def complete(raw: dict[str, Any]) -> dict[str, Any]:
        raw = {**raw, "entrypoints": raw.get("entrypoints") or "a"}
        if not wild:  # each type that a node declares must be carried by an edge
            any_type = [{"from_node": name, "to_node": "a", "message_type": "*"} for name in "abc"]
            raw["edges"] = [*(raw.get("edges") or []), *any_type]
        return raw

    return manifest.map(complete)
