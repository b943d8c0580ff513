"""A manifest of another format gets one line for each sign of it."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorneuron.bundle.load import load
from mirrorneuron.errors import Issue, ManifestError


def found(raw: dict[str, Any]) -> list[Issue]:
    with pytest.raises(ManifestError) as caught:
        load(raw)
    return list(caught.value.issues)


OURS: dict[str, Any] = {
    "manifest_version": "1.0",
    "graph_id": "g",
    "entrypoints": ["a"],
    "nodes": [{"node_id": "a", "agent_type": "router"}],
}


@pytest.mark.parametrize("version", ["mn.workflow/v1", "mn.workflow/v2"])
@pytest.mark.parametrize("more", [{}, OURS, {"manifest_version": "1.0", "kind": "Workflow", "id": "x", "contract": {}}])
def test_the_workflow_format_is_named_in_one_line(version: str, more: dict[str, Any]) -> None:
    (issue,) = found({"apiVersion": version, **more})
    assert issue.path == "apiVersion"
    assert issue.message == f'"{version}" names another manifest format, which is not supported'


def test_manifests_of_other_programs_are_named_in_one_line() -> None:
    (issue,) = found({"apiVersion": "example.org/v1alpha1", "kind": "Workflow", "spec": {}})
    assert issue.path == "apiVersion"
    assert [w.path for w in load({**OURS, "apiVersion": "x"}).warnings] == ["apiVersion"]


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"flow": {"nodes": [{"id": "a"}, {"id": "b"}]}}, "flow.nodes"),
        ({"flow": {"graph": {"nodes": []}}}, "flow.graph"),
        ({"workflow": {"steps": [{"id": "a"}]}}, "workflow.steps"),
        ({"manifest_version": "1.0", "graph_id": "g", "agents": {"nodes": []}}, "agents.nodes"),
    ],
)
def test_nodes_at_another_place_are_one_line(raw: dict[str, Any], path: str) -> None:
    assert [issue.path for issue in found(raw)] == [path]


def test_nodes_that_use_published_agents_are_one_line() -> None:
    nodes = [{"id": f"n{i}", "uses": "vendor/agent@1", "with": {}} for i in range(20)]
    (issue,) = found({**OURS, "nodes": nodes})
    assert issue.path == "nodes[0].uses"
    assert issue.message.startswith("is not supported (and 19 more nodes)")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"module": "MyApp.Counter", "module_source": "lib/counter.ex"}, "module_source"),
        ({"module": "MyApp.Counter"}, "module"),
        ({"module": "Elixir.MyApp.Counter"}, "module"),
        ({"module": "counter:Counter", "module_source": "counter.exs"}, "module_source"),
    ],
)
def test_an_elixir_module_is_one_line(config: dict[str, Any], key: str) -> None:
    (issue,) = found({**OURS, "nodes": [{"node_id": "a", "agent_type": "module", "config": config}]})
    assert issue.path == f"nodes[0].config.{key}"
    assert "is an Elixir" in issue.message


def test_a_valid_manifest_may_have_keys_of_these_names() -> None:
    raw = {**OURS, "flow": {"nodes": []}, "nodes": [{"node_id": "a", "agent_type": "router", "uses": "x"}]}
    assert {w.path for w in load(raw).warnings} == {"flow", "nodes[0].uses"}
