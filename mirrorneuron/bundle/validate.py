"""Validates a manifest in one pass: finds every issue, resolves aliases and fills in defaults.

Each node and edge is read by itself, so that an invalid node does not hide issues of the others. The graph is then
checked with the parts that could be read. Every step is linear in nodes and edges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mirrorneuron.bundle import node_config, other_formats
from mirrorneuron.bundle.conditions import compile_condition
from mirrorneuron.bundle.manifest import (
    ANY_TYPE,
    TEMPLATES,
    VERSION,
    AgentType,
    Edge,
    Manifest,
    Node,
    OnIdle,
    Policies,
    Template,
)
from mirrorneuron.bundle.manifest_draft import Draft
from mirrorneuron.bundle.message_bounds import NO_EDGE_HINT, chosen_type, type_key
from mirrorneuron.bundle.parse import below, kind, shown
from mirrorneuron.bundle.payload_checks import PayloadChecks
from mirrorneuron.bundle.schema import read
from mirrorneuron.bundle.start_check import entrypoints, initial_inputs
from mirrorneuron.bundle.uploads import Sources
from mirrorneuron.errors import Issue, ManifestError
from mirrorneuron.limits import MAX_EDGES, MAX_NODES

_READ_APART: Final = frozenset({"nodes", "edges", "policies", "entrypoints", "initial_inputs", "long_lived"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
MAX_ID: Final = 200  #: characters of a node id
FED_FROM_OUTSIDE: Final = frozenset({AgentType.AGGREGATOR, AgentType.SENSOR})


@dataclass(frozen=True, slots=True)
class Checked:
    """A manifest without issues."""

    manifest: Manifest
    filled: dict[str, Any]  #: the defaults that validation filled in, in the shape of the manifest
    warnings: list[Issue]  #: those about payload files; `lint` adds those about the manifest


def check(raw: Any, sources: Sources, allow_unsandboxed: bool = False) -> Checked:
    """Validate the JSON value *raw* as a manifest. Raises ManifestError with every issue."""
    if not isinstance(raw, dict):
        raise ManifestError([Issue("", f"a manifest must be a JSON object, not {kind(raw)}")])
    if foreign := other_formats.issues(raw):
        raise ManifestError(foreign)
    if excess := list(_excess(raw)):
        raise ManifestError(excess)
    draft = Draft()
    head = _read_head(raw, draft)
    _read_nodes(raw.get("nodes"), draft)
    _read_edges(raw.get("edges"), draft)
    _check_emitted_types(raw.get("edges"), draft)
    policies = read(Policies, _or(raw.get("policies"), {}), "policies", draft.issues)
    starts = entrypoints(raw.get("entrypoints"), draft)
    inputs = initial_inputs(raw.get("initial_inputs"), starts, draft)
    payloads = PayloadChecks(sources)
    for path, node, read_node in draft.nodes:
        _check_config(path, node, _agent_type(node, read_node), payloads, allow_unsandboxed, draft)
    if draft.issues or head is None or policies is None:
        raise ManifestError(draft.issues)
    head.nodes = [node for _, _, node in draft.nodes if node is not None]
    for model in head.nodes:
        model.config = node_config.without_nulls(model.agent_type, model.config)
    head.edges = draft.edges
    head.entrypoints, head.initial_inputs, head.policies = starts, inputs, policies
    return Checked(head, _fill(head, raw), draft.warnings)


def _excess(raw: dict[str, Any]) -> Iterator[Issue]:
    """The lists that are too long to be checked."""
    for key, most in (("nodes", MAX_NODES), ("edges", MAX_EDGES)):
        found = raw.get(key)
        if isinstance(found, list) and len(found) > most:
            yield Issue(
                key, f"has {len(found)} members; at most {most} are allowed", "split the graph into several jobs"
            )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _read_head(raw: dict[str, Any], draft: Draft) -> Manifest | None:
    """Read the top-level keys that are not in `_READ_APART`."""
    head = {k: v for k, v in raw.items() if k not in _READ_APART}
    long_lived = raw.get("long_lived")
    if long_lived is not None and not isinstance(long_lived, bool):
        draft.issue("long_lived", f"must be true or false, not {kind(long_lived)}")
    elif long_lived is not None and head.setdefault("daemon", long_lived) is None:
        head["daemon"] = long_lived
    elif long_lived is not None and isinstance(head["daemon"], bool) and head["daemon"] != long_lived:
        draft.issue("long_lived", "is an alias of daemon and has another value", "remove one of the two")
    version = head.get("manifest_version")
    if version is not None and version != VERSION:
        draft.issue("manifest_version", f"{shown(version)} is not supported", f'use "{VERSION}"')
        head["manifest_version"] = VERSION
    manifest = read(Manifest, head, "", draft.issues)
    if manifest is not None and _CONTROL.search(manifest.graph_id):
        draft.issue("graph_id", "must not contain control characters")
    return manifest


def _read_nodes(raw: Any, draft: Draft) -> None:
    if raw is None:
        draft.issue("nodes", "is required")
    elif not isinstance(raw, list):
        draft.issue("nodes", f"must be a list, not {kind(raw)}")
    elif not raw:
        draft.issue("nodes", "must contain at least one node")
    else:
        for index, item in enumerate(raw):
            path = below("nodes", index)
            model = read(Node, item, path, draft.issues)
            if isinstance(item, dict):
                draft.nodes.append((path, item, model))
                _check_id(item.get("node_id"), path, draft)
                _check_template(item, model, path, draft)


def _check_id(node_id: Any, path: str, draft: Draft) -> None:
    if not isinstance(node_id, str):
        return  # `read` has added the issue
    where = f"{path}.node_id"
    if not node_id:
        draft.issue(where, "must not be empty")
        return
    if len(node_id) > MAX_ID:
        draft.issue(where, f"must have at most {MAX_ID} characters, not {len(node_id)}")
    if _CONTROL.search(node_id) or "{" in node_id or "}" in node_id:
        draft.issue(where, "must not contain control characters, { or }")
    if node_id.startswith("-"):
        draft.issue(where, "must not begin with -", "a command such as `mn send` would take it for an option")
    first = draft.ids.setdefault(node_id, path)
    if first != path:
        draft.issue(where, f"duplicate node_id {shown(node_id)} (also {first})", "rename one of the nodes")


def _check_emitted_types(raw_edges: Any, draft: Draft) -> None:
    """Add an issue for each type that a node's config chooses and that none of the node's edges carries.

    Its run would fail. A node without edges is the end of a graph; `lint` warns about types that a run only counts.
    """
    if not isinstance(raw_edges, list) or len(draft.edges) != len(raw_edges):
        return  # there are no edges, or the type of an invalid edge is unknown
    carried: dict[str, set[str]] = {}
    for edge in draft.edges:
        carried.setdefault(edge.from_node, set()).add(edge.message_type)
    for path, _, node in draft.nodes:
        types = carried.get(node.node_id) if node is not None else None
        chosen = chosen_type(node) if node is not None else None
        if node is None or types is None or chosen is None or types & {ANY_TYPE, chosen}:
            continue
        hint = draft.suggestions.near(chosen, sorted(types)) or NO_EDGE_HINT[node.agent_type]
        draft.issue(
            f"{path}.config.{type_key(node)}", f"no outgoing edge carries the emitted type {shown(chosen)}", hint
        )


def _agent_type(node: dict[str, Any], model: Node | None) -> AgentType | None:
    """The node's agent type, even if another part of the node could not be read."""
    if model is not None:
        return model.agent_type
    try:
        return AgentType(node.get("agent_type", ""))
    except ValueError:
        return None


def _check_template(node: dict[str, Any], model: Node | None, path: str, draft: Draft) -> None:
    agent_type = _agent_type(node, model)
    try:
        template = model.type if model else Template(_or(node.get("type"), "generic"))
    except ValueError:
        return  # `read` has added the issue
    if agent_type and template not in TEMPLATES[agent_type]:
        choice = " or ".join(t for t in Template if t in TEMPLATES[agent_type])
        message = f'template "{template}" is not allowed for {node_config.article(agent_type)}'
        draft.issue(f"{path}.type", message, f"use {choice}")


def _read_edges(raw: Any, draft: Draft) -> None:
    if raw is None:
        return
    if not isinstance(raw, list):
        draft.issue("edges", f"must be a list, not {kind(raw)}")
        return
    for index, item in enumerate(raw):
        path = below("edges", index)
        edge = read(Edge, item, path, draft.issues)
        if edge is not None:
            draft.edges.append(edge)
        if isinstance(item, dict):
            _check_condition(item.get("conditions"), path, draft)
            for end in ("from_node", "to_node"):
                if isinstance(item.get(end), str) and item[end] not in draft.ids:
                    draft.unknown_node(f"{path}.{end}", item[end])


def _check_condition(conditions: Any, path: str, draft: Draft) -> None:
    expr = conditions.get("expr") if isinstance(conditions, dict) else None
    if not isinstance(expr, str):
        return  # no condition, or `read` has added the issue
    try:
        compile_condition(expr)
    except ValueError as error:
        draft.issue(f"{path}.conditions.expr", str(error), "write JMESPath, like body.outputs.branch == 'low'")


def _check_config(
    path: str,
    node: dict[str, Any],
    agent_type: AgentType | None,
    payloads: PayloadChecks,
    allow_unsandboxed: bool,
    draft: Draft,
) -> None:
    config = _or(node.get("config"), {})
    if not isinstance(config, dict):
        return  # `read` has added the issue
    where = f"{path}.config"
    if agent_type is AgentType.MODULE and other_formats.is_elixir(config):
        draft.issues.append(other_formats.elixir_issue(config, where))
        return
    before = len(draft.issues)
    draft.issues.extend(node_config.problems(agent_type, config, where, allow_unsandboxed))
    if agent_type in (AgentType.EXECUTOR, AgentType.MODULE):
        draft.issues.extend(payloads.issues(agent_type, config, where))
        if len(draft.issues) == before:  # the values can be relied on
            issue, fatal = payloads.content(agent_type, config, where) or (None, False)
            if issue is not None:
                (draft.issues if fatal else draft.warnings).append(issue)


def _fill(manifest: Manifest, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults that depend on other keys, and return the filled-in values."""
    filled: dict[str, Any] = {}
    if not manifest.job_name:
        manifest.job_name = filled["job_name"] = manifest.graph_id
    if not raw.get("entrypoints"):
        filled["entrypoints"] = list(manifest.entrypoints)
    if manifest.policies.on_idle is None:
        fed = manifest.daemon or any(node.agent_type in FED_FROM_OUTSIDE for node in manifest.nodes)
        manifest.policies.on_idle = OnIdle.WAIT if fed else OnIdle.COMPLETE
        filled["policies"] = {"on_idle": str(manifest.policies.on_idle)}
    given = raw.get("initial_inputs")
    if not isinstance(given, list):
        absent = [name for name in manifest.entrypoints if (given or {}).get(name) in (None, [])]
        filled["initial_inputs"] = {name: [{}] for name in absent}
    return filled
