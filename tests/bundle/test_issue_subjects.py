"""Subjects of issues: the node or edge that an issue is about, by name."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorneuron.bundle.issue_subjects import with_subjects
from mirrorneuron.bundle.load import load
from mirrorneuron.errors import Issue


def subject(path: str, nodes: Any = None, edges: Any = None) -> str:
    (issue,) = with_subjects([Issue(path, "is wrong")], {"nodes": nodes, "edges": edges})
    assert issue == Issue(path, "is wrong", subject=issue.subject)
    return issue.subject


@pytest.mark.parametrize("path", ["nodes[1]", "nodes[1].config.command", 'nodes[1].config.environment["A=B"]'])
def test_an_issue_in_a_node_names_the_node(path: str) -> None:
    assert subject(path, [{"node_id": "a"}, {"node_id": "fetch"}]) == 'node "fetch"'


def test_a_printed_issue_has_the_subject_behind_the_path() -> None:
    assert (
        str(Issue("nodes[1].role", "is wrong", "fix it", 'node "a"')) == 'nodes[1].role (node "a"): is wrong (fix it)'
    )


@pytest.mark.parametrize(
    "nodes",
    [
        None,
        "text",
        [],
        [3],
        [{}],
        [{"node_id": 3}],
        [{"node_id": ""}],
        [{"node_id": "a"}, {"node_id": "a"}],
    ],
)
def test_a_node_without_a_unique_id_is_not_named(nodes: Any) -> None:
    assert subject("nodes[0]", nodes) == ""


@pytest.mark.parametrize(
    ("edge", "expected"),
    [
        ({"from_node": "a", "to_node": "b", "edge_id": "e"}, 'edge "a" -> "b"'),
        ({"from_node": "a", "edge_id": "e"}, 'edge "e"'),
        ({"from_node": "a", "to_node": 3}, ""),
        (["a", "b"], ""),
    ],
)
def test_an_edge_is_named_by_its_ends_or_its_id(edge: Any, expected: str) -> None:
    assert subject("edges[0].conditions.expr", [], [edge]) == expected


@pytest.mark.parametrize("path", ["", "policies.on_idle", "initial_inputs.a[0]", '["nodes[0]"]', "payloads/nodes[0]"])
def test_an_issue_elsewhere_has_no_subject(path: str) -> None:
    assert subject(path, [{"node_id": "a"}]) == ""


def test_a_subject_is_short_and_has_no_control_characters() -> None:
    assert subject("nodes[0]", [{"node_id": "a\x1b[31m\n\ud800"}]) == r'node "a\x1b[31m\n\ud800"'
    assert len(subject("nodes[0]", [{"node_id": "x" * 1_000}])) < 100


def test_warnings_have_subjects_too() -> None:
    nodes = [{"node_id": name, "agent_type": "router"} for name in "ab"]
    bundle = load({"manifest_version": "1.0", "graph_id": "g", "entrypoints": "a", "nodes": nodes})
    assert [str(warning).partition(" (add")[0] for warning in bundle.warnings] == [
        'nodes[1] (node "b"): cannot be reached from an entrypoint'
    ]
