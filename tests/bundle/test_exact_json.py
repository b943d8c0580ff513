"""Duplicate keys of a JSON text, and Python values that JSON cannot hold exactly."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mirrorneuron.bundle.exact_json import MAX_REPORTED, duplicate_keys, inexact_values
from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.manifest import AgentType, Node
from mirrorneuron.errors import ManifestError


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ('{"a": 1, "b": [{"a": 1}, {"a": 2}]}', []),
        ('{"a": 1, "a": 1}', ["a"]),
        ('{"a": 1, "\\u0061": 2}', ["a"]),
        ('{"a": 1, "a": 2, "a": 3}', ["a"]),
        ('[{"x": 1}, {"x y": 1, "x y": 2}]', ['[1]["x y"]']),
        ('{"nodes": [{}, {"config": {"command": [], "command": []}}]}', ["nodes[1].config.command"]),
        # The first value of a duplicate key is dropped by a parser; its own duplicates are found too.
        ('{"a": {"b": 1, "b": 2}, "a": {}}', ["a.b", "a"]),
        ('{"a": %s, "b": 1e999, "b": -0}' % ("9" * 5000), ["b"]),
        ('"a"', []),
    ],
)
def test_duplicate_keys_are_found_with_their_paths(text: str, paths: list[str]) -> None:
    assert duplicate_keys(text) == duplicate_keys(text.encode()) == paths


def test_the_search_is_linear_and_reports_a_limited_number() -> None:
    began = time.monotonic()
    assert len(duplicate_keys('{"a": [' + ",".join(['{"x": 1, "x": 2}'] * 50_000) + "]}")) == MAX_REPORTED
    assert len(duplicate_keys("{" + ",".join(['"x": 1'] * 200_000) + "}")) == 1
    assert time.monotonic() - began < 5


def test_duplicate_keys_of_a_manifest_file_are_errors_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(
        """{"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["a"],
        "nodes": [{"node_id": "a", "agent_type": "executor", "config": {"command": ["true"], "timeout_seconds": 5},
                   "config": {"command": ["false"], "max_attempts": 0}}],
        "edges": [{"from_node": "a", "to_node": "zzz", "message_type": "t"}], "edges": []}"""
    )
    with pytest.raises(ManifestError) as caught:
        load(tmp_path)
    assert {issue.path: issue.message for issue in caught.value.issues} == {
        "nodes[0].config": "duplicate key",
        "edges": "duplicate key",
        "nodes[0].config.max_attempts": "must be 1 or more, not 0",
    }


def test_the_check_for_duplicate_keys_costs_little(tmp_path: Path) -> None:
    """A manifest of 10,000 nodes: some 35 ms, beside 20 ms for decoding and several times as much for validation."""
    nodes = [{"node_id": f"n{i}", "agent_type": "router", "config": {"emit_type": "x"}} for i in range(10_000)]
    text = json.dumps({"nodes": nodes})
    began = time.process_time()
    assert duplicate_keys(text) == []
    assert time.process_time() - began < 1


class Color(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    ONE = "one"


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ({1: "a", "1": "b"}, "body", "has the key 1; keys of JSON objects are strings"),
        ({None: 1, "None": 2}, "body", "has the key None; keys of JSON objects are strings"),
        ({(1, 2): 3}, "body", "has the key (1, 2); keys of JSON objects are strings"),
        ({True: {2: 3}}, "body.True", "has the key 2; keys of JSON objects are strings"),
        ({"s": {1, 2}}, "body.s", "is of type set, which is not a JSON type; use a list"),
        ({"t": [(1, 2)]}, "body.t[0]", "is of type tuple, which is not a JSON type; use a list"),
        ({"d": decimal.Decimal("1.10")}, "body.d", "is of type Decimal, which is not a JSON type"),
        ({"b": b"abc"}, "body.b", "is of type bytes, which is not a JSON type"),
        ({"b": datetime.datetime(2026, 3, 29, 2, 30)}, "body.b", "is of type datetime, which is not a JSON type"),
        ({"e": Color.RED}, "body.e", "is of type Color, which is not a JSON type"),
        ({"p": Path("/tmp")}, "body.p", "is of type PosixPath, which is not a JSON type"),
        ({"m": MappingProxyType({})}, "body.m", "is of type mappingproxy, which is not a JSON type"),
        ({"n": float("nan")}, "body.n", "is nan; NaN and Infinity are not valid JSON"),
        ({"n": [-float("inf")]}, "body.n[0]", "is -inf; NaN and Infinity are not valid JSON"),
    ],
)
def test_a_value_that_json_cannot_hold_is_refused_with_its_path(value: Any, path: str, problem: str) -> None:
    assert (path, problem) in inexact_values(value, "body")
    raw: dict[str, Any] = {
        "manifest_version": "1.0",
        "graph_id": "v",
        "entrypoints": ["j"],
        "nodes": [{"node_id": "j", "agent_type": "router"}],
        "initial_inputs": {"j": {"body": value}},
    }
    with pytest.raises(ManifestError) as caught:
        load(raw)
    where = f"initial_inputs.j.{path}"
    assert (where, problem) in [(issue.path, issue.message) for issue in caught.value.issues]


def test_values_that_json_holds_exactly_are_accepted() -> None:
    value = {
        "a": [1, 10**40, -0.0, 1.5, None, True, "x"],
        "w": Word.ONE,
        "n": Node(node_id="a", agent_type=AgentType.ROUTER),
    }
    assert inexact_values(value) == []


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    ((path, problem),) = inexact_values({"a": loop})
    assert path.startswith("a[0]")
    assert problem == "is nested too deeply, or contains itself"


def test_a_changed_bundle_is_checked_too() -> None:
    raw = {
        "manifest_version": "1.0",
        "graph_id": "v",
        "nodes": [{"node_id": "j", "agent_type": "router", "role": "root"}],
    }
    bundle = load(raw)
    bundle.manifest.nodes[0].config["x"] = {1, 2}
    with pytest.raises(ManifestError, match=r"nodes\[0\]\.config\.x: is of type set"):
        load(bundle)
