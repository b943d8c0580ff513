"""Names the node or the edge of each issue, so that a reader need not count the items of a list."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from mirrorneuron.bundle.parse import shown
from mirrorneuron.errors import Issue
from mirrorneuron.text import printable

_ITEM: Final = re.compile(r"(nodes|edges)\[(\d+)\]")


def with_subjects(issues: Iterable[Issue], raw: Any) -> list[Issue]:
    """*issues* of the manifest *raw*, each with its subject: `node "fetch"` or `edge "fetch" -> "store"`.

    An issue has no subject if the node's id is not a string or not unique, or if the edge has neither ends nor an id.
    Linear in nodes and issues.
    """
    issues = list(issues)
    if not issues or not isinstance(raw, dict):
        return issues
    nodes, edges = _items(raw.get("nodes")), _items(raw.get("edges"))
    ids = (_text(node, "node_id") for node in nodes)
    uses = Counter(node_id for node_id in ids if node_id)
    return [_with_subject(issue, nodes, edges, uses) for issue in issues]


def _with_subject(issue: Issue, nodes: list[Any], edges: list[Any], uses: Counter[str]) -> Issue:
    found = _ITEM.match(issue.path)
    if found is None:
        return issue
    items, index = (nodes if found[1] == "nodes" else edges), int(found[2])
    if index >= len(items):
        return issue
    subject = _node(items[index], uses) if items is nodes else _edge(items[index])
    return replace(issue, subject=subject)


def _node(node: Any, uses: Counter[str]) -> str:
    node_id = _text(node, "node_id")
    return f"node {_quoted(node_id)}" if node_id and uses[node_id] == 1 else ""


def _edge(edge: Any) -> str:
    start, end, edge_id = (_text(edge, key) for key in ("from_node", "to_node", "edge_id"))
    if start and end:
        return f"edge {_quoted(start)} -> {_quoted(end)}"
    return f"edge {_quoted(edge_id)}" if edge_id else ""


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(item: Any, key: str) -> str | None:
    value = item.get(key) if isinstance(item, dict) else None
    return value if isinstance(value, str) else None


def _quoted(text: str) -> str:
    return printable(shown(text))
