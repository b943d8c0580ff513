"""Plans: edges, linear runs, thresholds and pools."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest

from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.manifest import OnIdle
from mirrorneuron.bundle.plan import LONGEST_RUN, Plan, make_plan

COMMAND = {"command": "true"}


def node(node_id: str, agent_type: str = "router", template: str = "generic", **config: Any) -> dict[str, Any]:
    needed = {"executor": COMMAND, "module": {"module": "m:C"}}.get(agent_type, {})
    return {"node_id": node_id, "agent_type": agent_type, "type": template, "config": {**needed, **config}}


def edge(from_node: str, to_node: str, message_type: str = "*", **more: Any) -> dict[str, Any]:
    return {"from_node": from_node, "to_node": to_node, "message_type": message_type, **more}


def plan_of(nodes: list[dict[str, Any]], edges: list[dict[str, Any]], **more: Any) -> Plan:
    first = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": [nodes[0]["node_id"]]}
    return make_plan(load({**first, "nodes": nodes, "edges": edges, **more}).manifest)


def line(length: int) -> Plan:
    names = [f"n{n}" for n in range(length)]
    return plan_of([node(name) for name in names], [edge(*pair) for pair in itertools.pairwise(names)])


def targets(plan: Plan, agent: str, message_type: str) -> list[str]:
    return [edge.to for edge in plan.nodes[agent].edges_for(message_type)]


def test_nodes_in_a_row_are_one_linear_run() -> None:
    assert line(4).linear_run("n0") == ["n0", "n1", "n2", "n3"]
    assert line(4).linear_run("n2") == ["n2", "n3"]


def test_a_linear_run_has_no_more_steps_than_one_chain() -> None:
    plan = line(40)
    assert plan.linear_run("n0") == [f"n{n}" for n in range(LONGEST_RUN)]
    assert plan.linear_run("n16")[0] == "n16"


def test_a_linear_run_ends_before_a_join_and_at_a_fork() -> None:
    nodes = [node(name) for name in "abcde"]
    plan = plan_of(nodes, [edge("a", "b"), edge("b", "c"), edge("b", "d"), edge("c", "e"), edge("d", "e")])
    assert [plan.linear_run(name) for name in "abcd"] == [["a", "b"], ["b"], ["c"], ["d"]]


def test_two_edges_between_the_same_nodes_are_a_fork() -> None:
    plan = plan_of([node("a"), node("b")], [edge("a", "b", "x"), edge("a", "b", "y")])
    assert plan.linear_run("a") == ["a"]


def test_a_linear_run_passes_a_loop_once() -> None:
    plan = plan_of([node(name) for name in "abc"], [edge("a", "b"), edge("b", "c"), edge("c", "a")])
    assert plan.linear_run("b") == ["b", "c", "a"]
    assert plan_of([node("a")], [edge("a", "a")]).linear_run("a") == ["a"]


def test_edges_for_a_type_include_wildcards_in_manifest_order() -> None:
    edges = [edge("a", "b", "x"), edge("a", "c"), edge("a", "d", "y"), edge("a", "e", "x")]
    plan = plan_of([node(name) for name in "abcde"], edges)
    assert targets(plan, "a", "x") == ["b", "c", "e"]
    assert targets(plan, "a", "y") == ["c", "d"]
    assert targets(plan, "a", "other") == ["c"]
    assert targets(plan, "a", "*") == ["c"]
    assert targets(plan, "b", "x") == []
    assert plan.nodes["a"].out_degree == 4


@pytest.mark.parametrize(
    ("given", "pool", "threshold", "batch_max", "plain"),
    [
        (node("n"), "light", None, None, True),
        (node("n", "sensor", complete_job=True, complete_after=3), "light", None, None, True),
        (node("n", "aggregator"), "light", None, None, True),
        (node("n", "aggregator", complete_after=1), "light", None, None, True),
        (node("n", "aggregator", complete_after=5), "light", 5, None, False),
        (node("n", "aggregator", complete_after=5, complete_on_message=True), "light", None, None, True),
        (node("n", "executor"), "default", None, 1, False),
        (node("n", "executor", pool="gpu"), "gpu", None, 1, False),
        (node("n", "executor", "batch"), "default", 10, 10, False),
        (node("n", "module", "batch", batch_size=3), "default", 3, 3, False),
        (node("n", "module", "batch", batch_size=1), "default", None, 1, False),
        (node("n", "executor", "map"), "default", None, 1, False),
    ],
)
def test_the_threshold_and_batch_of_an_agent(
    given: dict[str, Any], pool: str, threshold: int, batch_max: int, plain: bool
) -> None:
    planned = plan_of([given], []).nodes["n"]
    assert (planned.pool, planned.threshold, planned.batch_max, planned.plain) == (pool, threshold, batch_max, plain)
    assert planned.light is (pool == "light")


def test_the_pools_batches_and_sinks_of_a_graph() -> None:
    nodes = [node("a"), node("x", "executor", pool="gpu"), node("y", "executor", "batch"), node("z", "aggregator")]
    plan = plan_of(nodes, [edge("a", "x"), edge("a", "y"), edge("y", "z")])
    assert plan.pools == ("default", "gpu", "light")
    assert plan.batches == ("y",)
    assert plan.sinks == ("x", "z")


@pytest.mark.parametrize(
    ("agent_type", "more", "expected"),
    [
        ("router", {}, OnIdle.COMPLETE),
        ("aggregator", {}, OnIdle.WAIT),
        ("sensor", {}, OnIdle.WAIT),
        ("router", {"daemon": True}, OnIdle.WAIT),
        ("sensor", {"policies": {"on_idle": "fail"}}, OnIdle.FAIL),
    ],
)
def test_what_an_idle_job_does_by_default(agent_type: str, more: dict[str, Any], expected: OnIdle) -> None:
    assert plan_of([node("a", agent_type)], [], **more).on_idle is expected


def test_entrypoints_are_kept_in_their_order() -> None:
    nodes = [node(name) for name in "abc"]
    assert plan_of(nodes, [], entrypoints=["b", "a"]).entrypoints == ("b", "a")


def test_a_condition_is_compiled_once_for_all_messages() -> None:
    condition = {"expr": '${payload.n} == "low"'}
    plan = plan_of([node("a"), node("b")], [edge("a", "b", conditions=condition)])
    (planned,) = plan.nodes["a"].edges_for("x")
    assert planned.condition is not None
    assert planned.condition.search({"body": {"n": "low"}}) is True


def test_the_work_of_planning_is_linear_in_the_graph() -> None:
    """Ten times the edges take about ten times the function calls; a quadratic step would take a hundred times."""

    def calls(width: int) -> int:
        names = [f"n{n}" for n in range(width)]
        nodes = [node("hub"), *map(node, names), node("join", "aggregator", complete_after=width)]
        edges = [*(edge("hub", name) for name in names), *(edge(name, "join") for name in names)]
        manifest = load(
            {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["hub"], "nodes": nodes, "edges": edges}
        ).manifest
        count = [0]

        def called(_frame: object, event: str, _arg: object) -> None:
            count[0] += event in ("call", "c_call")

        sys.setprofile(called)
        try:
            make_plan(manifest)
        finally:
            sys.setprofile(None)
        return count[0]

    assert calls(2_000) < 12 * calls(200)
