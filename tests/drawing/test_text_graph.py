"""Graphs as Mermaid and DOT: nodes and edges, marks of agents, and the escaping of names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorneuron import validate_manifest
from mirrorneuron.bundle.manifest import Edge, Manifest, Node
from mirrorneuron.drawing.text_graph import Mark, dot, marks, mermaid

EXAMPLES = Path(__file__).parents[2] / "examples"
MERMAID_NODE = re.compile(r'  n\d+(\{\{|\(\[|\[\[|\[\\|\[)"[^"]*"(\}\}|\]\)|\]\]|/\]|\])(:::[a-z]+)?')
MERMAID_EDGE = re.compile(r'  n\d+ (-->|-\.->)\|"[^"]*"\| n\d+')
DOT_LINE = re.compile(r'  "([^"\\]|\\.)*"( -> "([^"\\]|\\.)*")? \[(\w+=(\w+|"([^"\\]|\\.)*")(, )?)+\];')

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def manifest(*nodes: Node, edges: tuple[Edge, ...] = (), graph_id: str = "g") -> Manifest:
    first = [nodes[0].node_id] if nodes else []
    return Manifest(manifest_version="1.0", graph_id=graph_id, nodes=list(nodes), edges=list(edges), entrypoints=first)


def node(name: str, kind: str = "router", **more: Any) -> Node:
    return Node.from_dict({"node_id": name, "agent_type": kind, **more})


def edge(source: str, target: str, **more: Any) -> Edge:
    return Edge.from_dict({"from_node": source, "to_node": target, "message_type": "work", **more})


def snapshot(name: str, status: str, processed: int = 0) -> Any:
    return {"agent_id": name, "status": status, "processed_messages": processed}


def test_a_graph_as_mermaid():
    shown = mermaid(
        manifest(
            node("in"),
            node("work", "executor", type="map"),
            node("out", "aggregator"),
            edges=(
                edge("in", "work", routing_mode="round_robin"),
                edge("work", "out", conditions={"expr": "body.ok == `true`"}),
            ),
        ),
        {"in": Mark.DONE, "work": Mark.BUSY},
    )
    assert shown.splitlines() == [
        "flowchart LR",
        '  n0{{"in<br/><small>router</small>"}}:::done',
        '  n1["work<br/><small>executor map</small>"]:::busy',
        '  n2[\\"out<br/><small>aggregator</small>"/]',
        '  n0 -->|"work (in turn)"| n1',
        '  n1 -.->|"work if body.ok == #96;true#96;"| n2',
        "  style n0 stroke-width:3px",
        "  classDef done fill:#d9f2dd,stroke:#2e7d32,color:#222",
        "  classDef busy fill:#fff3c4,stroke:#b8860b,color:#222",
    ]


def test_a_graph_as_dot():
    shown = dot(
        manifest(node("in"), node("out", "sensor"), edges=(edge("in", "out", conditions={"expr": "body.a == 'b'"}),)),
        {"out": Mark.FAILED},
    )
    assert '  "in" [label="in\\nrouter", shape=hexagon, penwidth=2];' in shown
    assert (
        '"out" [label="out\\nsensor", shape=ellipse, fillcolor="#fbd9d9", color="#c62828", tooltip="failed"];' in shown
    )
    assert """"in" -> "out" [label="work if body.a == 'b'", style=dashed];""" in shown


def test_each_agent_type_has_a_shape_of_its_own():
    kinds = ("router", "executor", "aggregator", "sensor", "module")
    alone = [mermaid(manifest(node("n", kind))).splitlines()[1].replace(kind, "") for kind in kinds]
    assert len(set(alone)) == len(kinds)
    shapes = [re.findall(r"shape=\w+", dot(manifest(node("n", kind)))) for kind in kinds]
    assert len({shape for [shape] in shapes}) == len(kinds)


@given(NAMES, NAMES, NAMES)
def test_names_are_escaped_in_labels(first, second, kind):
    """Every line has the form of a node, an edge or a style, whatever the names are."""
    drawn = manifest(
        node(first), node(first + second), edges=(edge(first, first + second, message_type=kind),), graph_id=kind
    )
    header, one, two, line, style = mermaid(drawn)[:-1].split("\n")
    assert (header, style) == ("flowchart LR", "  style n0 stroke-width:3px")
    assert MERMAID_NODE.fullmatch(one)
    assert MERMAID_NODE.fullmatch(two)
    assert MERMAID_EDGE.fullmatch(line)
    for text in (one, two):
        label = text.partition('"')[2].rpartition('"')[0].removesuffix("<br/><small>router</small>")
        assert not set("<>&`|") & set(label)
    *_, one, two, line, end = dot(drawn)[:-1].split("\n")
    assert end == "}"
    assert all(DOT_LINE.fullmatch(text) for text in (one, two, line))


def test_names_that_mermaid_would_read_as_markdown_are_escaped():
    assert '"#45; item<' in mermaid(manifest(node("- item")))
    assert '"1#46; item<' in mermaid(manifest(node("1. item")))
    assert '"#42;#42;bold#42;#42;<' in mermaid(manifest(node("**bold**")))
    assert '"grün 🚀'.replace("🚀", f"#{ord('🚀')};") in mermaid(manifest(node("grün 🚀")))


def test_an_agent_is_marked_with_its_state():
    """An agent that has had no message has no mark, also when the job has ended."""
    found = marks(
        [
            snapshot("a", "completed", 3),
            snapshot("b", "completed"),
            snapshot("c", "running", 1),
            snapshot("d", "busy"),
            snapshot("e", "queued", 2),
            snapshot("f", "error", 1),
            snapshot("g", "ready", 1),
            snapshot("h", "ready"),
        ]
    )
    assert found == {
        "a": Mark.DONE,
        "c": Mark.BUSY,
        "d": Mark.BUSY,
        "e": Mark.QUEUED,
        "f": Mark.FAILED,
        "g": Mark.DONE,
    }


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
def test_every_example_is_drawn_completely_and_deterministically(example):
    drawn = validate_manifest(EXAMPLES / example).manifest
    again = validate_manifest(EXAMPLES / example).manifest
    for draw in (mermaid, dot):
        assert draw(drawn) == draw(again)
    lines = mermaid(drawn).splitlines()
    assert len([line for line in lines if MERMAID_NODE.fullmatch(line)]) == len(drawn.nodes)
    assert len([line for line in lines if MERMAID_EDGE.fullmatch(line)]) == len(drawn.edges)
    assert dot(drawn).count(" -> ") == len(drawn.edges)
