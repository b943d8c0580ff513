"""Warnings: which parts of a valid manifest get one, and which do not."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorneuron.bundle.load import load
from mirrorneuron.errors import ManifestError


def warned(nodes: dict[str, dict[str, Any]], *edges: str, **more: Any) -> dict[str, str]:
    """Path -> message of every warning. Nodes are `name: {agent_type: config}`, edges `from type to`."""
    raw: dict[str, Any] = {
        "manifest_version": "1.0",
        "graph_id": "g",
        "entrypoints": [next(iter(nodes))],
        "nodes": [
            {"node_id": name, "agent_type": kind, "config": config}
            for name, given in nodes.items()
            for kind, config in given.items()
        ],
        "edges": [dict(zip(("from_node", "message_type", "to_node"), edge.split(), strict=True)) for edge in edges],
        **more,
    }
    return {warning.path: warning.message for warning in load(raw).warnings}


def router(emit_type: str | None = None) -> dict[str, Any]:
    return {"router": {"emit_type": emit_type}}


def executor(**config: Any) -> dict[str, Any]:
    return {"executor": {"command": "true", **config}}


def test_unknown_keys_get_a_warning_with_a_suggestion() -> None:
    edge = {"from_node": "a", "to_node": "a", "message_type": "*", "routing": "x", "conditions": {"exp": "x"}}
    raw = {
        "manifest_version": "1.0",
        "graph_id": "g",
        "entrypoint": "a",
        "nodes": [{"node_id": "a", "agent_type": "router", "role": "root", "kind": 1, "config": {"emit_typ": "x"}}],
        "edges": [edge],
        "policies": {"on_idel": "wait"},
    }
    hints = {warning.path: warning.hint for warning in load(raw).warnings}
    assert hints == {
        "entrypoint": 'did you mean "entrypoints"?',
        "policies.on_idel": 'did you mean "on_idle"?',
        "nodes[0].kind": "",
        "nodes[0].config.emit_typ": 'did you mean "emit_type"?',
        "edges[0].routing": "",
        "edges[0].conditions.exp": 'did you mean "expr"?',
    }


def test_an_unreachable_node_gets_a_warning() -> None:
    found = warned({"a": router(), "b": router(), "c": router()}, "b x c")
    assert set(found) == {"nodes[1]", "nodes[2]"}
    assert found["nodes[1]"] == "cannot be reached from an entrypoint"


def test_a_sensor_and_a_node_with_initial_input_are_reachable() -> None:
    nodes = {"a": router(), "s": {"sensor": {"complete_job": True}}, "b": router(), "c": router()}
    assert warned(nodes, "s sensor_ready b", initial_inputs={"c": {}}) == {}


@pytest.mark.parametrize(
    ("node", "key"),
    [
        (executor(), "output_message_type"),
        ({"aggregator": {"output_message_type": "done"}}, "output_message_type"),
        ({"sensor": {}}, "output_message_type"),
    ],
)
def test_an_emitted_type_that_no_edge_carries_gets_a_warning(node: dict[str, Any], key: str) -> None:
    found = warned({"a": node, "b": router()}, "a other b", policies={"on_idle": "complete"})
    assert "no outgoing edge carries the emitted type" in found[f"nodes[0].config.{key}"]
    assert not any(
        "no outgoing edge carries the emitted type" in text
        for text in warned({"a": node, "b": router()}, "a * b").values()
    )


@pytest.mark.parametrize(
    ("node", "key", "hint"),
    [
        (router("dome"), "emit_type", 'did you mean "done"?'),
        (executor(output_message_type="x"), "output_message_type", "or set output_message_type to null"),
        (executor(output_message_type="x", complete_job=True), "output_message_type", "add an edge"),
        ({"aggregator": {"complete_after": 1, "output_message_type": "x"}}, "output_message_type", "add an edge"),
        ({"aggregator": {"complete_on_message": True, "output_message_type": "x"}}, "output_message_type", "add"),
        ({"sensor": {"output_message_type": "x"}}, "output_message_type", "add an edge"),
    ],
)
def test_a_chosen_type_that_no_edge_carries_is_an_error_because_each_run_fails(
    node: dict[str, Any], key: str, hint: str
) -> None:
    """The rule of the run (docs/concepts.md): the config names the type, and the node has edges."""
    with pytest.raises(ManifestError) as caught:
        warned({"a": node, "b": router()}, "a done b")
    (issue,) = caught.value.issues
    assert issue.path == f"nodes[0].config.{key}"
    assert issue.message.startswith("no outgoing edge carries the emitted type")
    assert hint in issue.hint
    for edges in (["a * b"], []):
        warned({"a": node, "b": router()}, *edges)


def test_a_node_at_the_end_of_the_graph_may_emit_its_default_type() -> None:
    assert warned({"a": executor()}) == {}
    assert warned({"a": executor(output_message_type="report", complete_job=True)}) == {}
    assert "nodes[0].config.output_message_type" in warned({"a": executor(output_message_type="report")})


def test_an_executor_that_emits_no_result_needs_no_edge() -> None:
    assert warned({"a": executor(output_message_type=None), "b": router()}, "a item b") == {}


@pytest.mark.parametrize(
    "node", [router("x"), {"aggregator": {"complete_after": 1}}, {"sensor": {"output_message_type": "x"}}]
)
def test_an_edge_of_a_type_that_its_node_never_emits_can_never_match(node: dict[str, Any]) -> None:
    found = warned({"a": node, "b": router()}, "a x b", "a y b")
    assert "can never match" in found["edges[1]"]


@pytest.mark.parametrize("node", [router(), executor(), {"module": {"module": "json:C"}}])
def test_a_node_that_may_emit_anything_has_no_dead_edges(node: dict[str, Any]) -> None:
    assert not any("edges" in path for path in warned({"a": node, "b": router()}, "a x b", "a y b"))


def test_a_first_match_edge_after_an_unconditional_one_can_never_match() -> None:
    def edges(**first: Any) -> list[dict[str, Any]]:
        base = {"from_node": "a", "to_node": "b", "message_type": "x", "routing_mode": "first_match"}
        return [{**base, **first}, base]

    nodes = {"a": router(), "b": router()}
    assert "gets every such message" in warned(nodes, edges=edges())["edges[1]"]
    assert "gets every such message" in warned(nodes, edges=edges(message_type="*"))["edges[1]"]
    assert warned(nodes, edges=edges(message_type="y")) == {}
    assert warned(nodes, edges=edges(conditions={"expr": "body.x"})) == {}


def test_a_condition_on_an_unknown_field_gets_a_warning() -> None:
    """In JMESPath "low" in double quotes is a field of the message; its value is always null."""
    edge = {"from_node": "a", "to_node": "b", "message_type": "x", "conditions": {"expr": 'body.x == "low"'}}
    found = warned({"a": router(), "b": router()}, edges=[edge])
    assert '"low" is not a field of a message' in found["edges[0].conditions.expr"]
    edge["conditions"] = {"expr": '${payload.x} == "low"'}
    assert warned({"a": router(), "b": router()}, edges=[edge]) == {}


def aggregator(complete_after: int | None) -> dict[str, Any]:
    return {"aggregator": {"complete_after": complete_after}}


def test_an_aggregator_with_an_unreachable_threshold_gets_a_warning() -> None:
    nodes = {"a": router("x"), "b": executor(), "c": executor(), "all": aggregator(3)}
    edges = ("a x b", "a x c", "b executor_result all", "c executor_result all")
    assert "at most 2 messages" in warned(nodes, *edges)["nodes[3].config.complete_after"]
    assert warned({**nodes, "all": aggregator(2)}, *edges) == {}
    assert warned(nodes, *edges, initial_inputs=[1, 2]) == {}


@pytest.mark.parametrize(
    ("source", "edge"),
    [
        ({"module": {"module": "json:C"}}, "a x all"),
        ({"sensor": {}}, "a sensor_ready all"),
        (executor(output_message_type=None), "a item all"),
    ],
)
def test_a_node_that_may_emit_any_number_can_fill_any_aggregator(source: dict[str, Any], edge: str) -> None:
    assert warned({"a": source, "all": aggregator(1000)}, edge) == {}


def test_messages_in_a_loop_can_fill_any_aggregator() -> None:
    assert warned({"a": router(), "b": router(), "all": aggregator(1000)}, "a x b", "b x a", "b x all") == {}


def test_each_aggregator_in_a_row_divides_the_bound() -> None:
    first = {"aggregator": {"complete_after": 3, "output_message_type": "part"}}
    nodes = {"a": router("x"), "b": first, "all": aggregator(3)}
    found = warned(nodes, "a x b", "b part all", initial_inputs=[1] * 7)
    assert "at most 2 messages" in found["nodes[2].config.complete_after"]
    assert warned(nodes, "a x b", "b part all", initial_inputs=[1] * 9) == {}


def test_an_aggregator_without_a_threshold_gets_a_warning() -> None:
    found = warned({"a": aggregator(None)})
    assert "is not set, so the aggregator never fires" in found["nodes[0].config.complete_after"]
    assert warned({"a": {"aggregator": {"complete_on_message": True}}}) == {}


def test_a_graph_in_which_no_node_can_complete_the_job_gets_a_warning() -> None:
    stuck: dict[str, Any] = {"a": {"sensor": {}}}
    assert "no node of the graph can complete the job" in warned(stuck)["nodes"]
    assert warned(stuck, daemon=True) == {}
    assert warned(stuck, policies={"on_idle": "complete"}) == {}
    assert warned({"a": {"sensor": {"complete_job": True}}}) == {}
    assert "nodes" in warned({"s": {"sensor": {}}, "e": executor()}, "s sensor_ready e")
    acting = executor(output_message_type=None)
    assert "nodes" not in warned({"s": {"sensor": {}}, "e": acting}, "s sensor_ready e")
    assert "nodes" not in warned({"s": {"sensor": {}}, "m": {"module": {"module": "json:C"}}}, "s sensor_ready m")
