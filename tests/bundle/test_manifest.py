"""A valid manifest after validation: aliases are resolved, defaults filled in, unknown keys kept."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.manifest import AgentType, Manifest, OnIdle, RecoveryMode, RoutingMode, Template
from mirrorneuron.message import decode, encode


def manifest_of(*nodes: dict[str, Any], **more: Any) -> Manifest:
    raw = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": [nodes[0]["node_id"]], "nodes": list(nodes)}
    return load({k: v for k, v in {**raw, **more}.items() if v is not ...}).manifest


def node(node_id: str, agent_type: str = "router", **more: Any) -> dict[str, Any]:
    config = {"executor": {"command": "true"}, "sandbox_worker": {"command": "true"}, "module": {"module": "m:C"}}
    return {"node_id": node_id, "agent_type": agent_type, "config": config.get(agent_type, {}), **more}


def test_defaults_are_filled_in() -> None:
    manifest = manifest_of(node("a"))
    assert (manifest.job_name, manifest.daemon, manifest.metadata, manifest.edges) == ("g", False, {}, [])
    assert manifest.nodes[0].type is Template.GENERIC
    policies = manifest.policies
    assert policies.recovery_mode is RecoveryMode.LOCAL_RESTART
    assert (policies.placement_policy, policies.max_agent_restart_attempts) == ("local", 3)
    assert (policies.job_timeout_ms, policies.idle_timeout_ms) == (None, None)


@pytest.mark.parametrize(
    ("alias", "meant"),
    [("relay", AgentType.ROUTER), ("sandbox_worker", AgentType.EXECUTOR), ("collector", AgentType.AGGREGATOR)],
)
def test_aliases_of_agent_types_are_resolved(alias: str, meant: AgentType) -> None:
    assert manifest_of(node("a", alias)).nodes[0].agent_type is meant


def test_accumulator_is_reduce_and_long_lived_is_daemon() -> None:
    manifest = manifest_of(node("a", "aggregator", type="accumulator"), long_lived=True)
    assert manifest.nodes[0].type is Template.REDUCE
    assert manifest.daemon is True
    assert manifest.model_extra == {}


@pytest.mark.parametrize(
    ("agent_type", "templates"),
    [
        ("router", {"generic", "map"}),
        ("executor", set(Template)),
        ("module", set(Template)),
        ("aggregator", {"generic", "reduce"}),
        ("sensor", {"generic"}),
    ],
)
def test_the_templates_of_each_agent_type(agent_type: str, templates: set[str]) -> None:
    def accepted(template: str) -> bool:
        try:
            manifest_of(node("a", agent_type, type=template))
        except ValueError:
            return False
        return True

    assert {template.value for template in Template if accepted(template)} == templates


def test_an_edge_broadcasts_unless_it_says_otherwise() -> None:
    edges = [
        {"from_node": "a", "to_node": "b", "message_type": "*"},
        {"from_node": "a", "to_node": "b", "message_type": "x", "routing_mode": "round_robin", "edge_id": "e"},
    ]
    first, second = manifest_of(node("a"), node("b"), edges=edges).edges
    assert (first.routing_mode, first.edge_id, first.expr) == (RoutingMode.BROADCAST, None, None)
    assert (second.routing_mode, second.edge_id) == (RoutingMode.ROUND_ROBIN, "e")


def test_entrypoints_are_a_list_one_string_or_the_nodes_with_a_root_role() -> None:
    nodes = (node("a"), node("b", role="root"), node("c", role="root_coordinator"))
    assert manifest_of(*nodes, entrypoints=["c", "a", "c"]).entrypoints == ["c", "a"]
    assert manifest_of(*nodes, entrypoints="a").entrypoints == ["a"]
    absent: Any
    for absent in (..., None, []):
        assert manifest_of(*nodes, entrypoints=absent).entrypoints == ["b", "c"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (..., {"a": [{}], "b": [{}]}),
        (None, {"a": [{}], "b": [{}]}),
        ({}, {"a": [{}], "b": [{}]}),
        ({"a": {"x": 1}}, {"a": [{"x": 1}], "b": [{}]}),
        ({"a": [1, "two"], "b": []}, {"a": [1, "two"], "b": [{}]}),
        ({"a": [[1, 2]], "b": None}, {"a": [[1, 2]], "b": [{}]}),
        ({"a": [None], "c": {"y": 2}}, {"a": [None], "b": [{}], "c": [{"y": 2}]}),
        ([{"x": 1}, {"x": 2}], {"a": [{"x": 1}, {"x": 2}], "b": [{"x": 1}, {"x": 2}]}),
        ([], {"a": [{}], "b": [{}]}),
    ],
)
def test_initial_inputs_become_payloads_by_node(given: Any, expected: dict[str, list[Any]]) -> None:
    manifest = manifest_of(node("a"), node("b"), node("c"), entrypoints=["a", "b"], initial_inputs=given)
    assert manifest.initial_inputs == expected


@pytest.mark.parametrize(
    ("agent_type", "daemon", "expected"),
    [
        ("router", False, OnIdle.COMPLETE),
        ("executor", False, OnIdle.COMPLETE),
        ("router", True, OnIdle.WAIT),
        ("sensor", False, OnIdle.WAIT),
        ("aggregator", False, OnIdle.WAIT),
    ],
)
def test_an_idle_job_waits_by_default_only_if_it_may_be_fed_from_outside(
    agent_type: str, daemon: bool, expected: OnIdle
) -> None:
    assert manifest_of(node("a", agent_type), daemon=daemon).policies.on_idle is expected
    chosen = manifest_of(node("a", agent_type), daemon=daemon, policies={"on_idle": "fail"})
    assert chosen.policies.on_idle is OnIdle.FAIL


def test_unknown_keys_are_kept() -> None:
    manifest = manifest_of(node("a", colour="red"), owner={"team": 7}, policies={"x": None})
    assert manifest.model_extra == {"owner": {"team": 7}}
    assert manifest.nodes[0].model_extra == {"colour": "red"}
    assert manifest.policies.model_extra == {"x": None}


def test_a_null_config_value_counts_as_absent_with_one_exception() -> None:
    """An executor whose `output_message_type` is null emits no result; any other null counts as absent."""
    config = {"command": "true", "pool": None, "output_message_type": None, "mine": None}
    assert manifest_of(node("a", "executor", config=config)).nodes[0].config == {
        "command": "true",
        "output_message_type": None,
        "mine": None,
    }


def test_a_null_counts_as_an_absent_key() -> None:
    nulls = dict.fromkeys(("job_name", "daemon", "metadata", "initial_inputs", "edges", "policies"))
    assert manifest_of(node("a", type=None, role=None, config=None), **nulls) == manifest_of(node("a"))


def test_a_validated_manifest_reads_back_from_its_json() -> None:
    """Workers read the manifest without the bundle's folder."""
    manifest = manifest_of(node("a", "executor"), node("b", "collector"), job_name="n", policies={"on_idle": "wait"})
    assert Manifest.from_dict(decode(encode(manifest))) == manifest


def test_the_manifest_shares_no_objects_with_the_callers_mapping() -> None:
    nodes = [node("a", "executor")]
    raw = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": "a", "nodes": nodes}
    manifest = load(MappingProxyType(raw)).manifest
    manifest.nodes[0].config["command"] = "false"
    assert nodes[0]["config"]["command"] == "true"
