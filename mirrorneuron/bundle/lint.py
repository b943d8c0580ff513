"""Warnings: what a manifest may say, and what is nevertheless likely to be a mistake.

Every rule is linear in nodes and edges and looks at a manifest that has no issues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mirrorneuron.bundle import node_config
from mirrorneuron.bundle.conditions import unknown_roots
from mirrorneuron.bundle.manifest import ANY_TYPE, AgentType, Edge, Manifest, Node, OnIdle, RoutingMode
from mirrorneuron.bundle.message_bounds import bounds, declared_type, type_key
from mirrorneuron.bundle.parse import below
from mirrorneuron.bundle.schema import Model, words
from mirrorneuron.bundle.suggest import did_you_mean
from mirrorneuron.errors import Issue

_ALIASES: Final[dict[type, tuple[str, ...]]] = {Manifest: ("long_lived",)}
_CONFIG_WORDS: Final = (*node_config.KEYS, *node_config.UPLOAD_KEYS)


@dataclass(frozen=True, slots=True)
class Graph:
    """The manifest by node."""

    manifest: Manifest
    outgoing: dict[str, list[tuple[int, Edge]]]  #: node id -> its edges with their places in the manifest
    reached: frozenset[str]

    @classmethod
    def of(cls, manifest: Manifest) -> Graph:
        outgoing: dict[str, list[tuple[int, Edge]]] = {node.node_id: [] for node in manifest.nodes}
        for index, edge in enumerate(manifest.edges):
            outgoing[edge.from_node].append((index, edge))
        return cls(manifest, outgoing, frozenset(_reached(manifest, outgoing)))


def _reached(manifest: Manifest, outgoing: dict[str, list[tuple[int, Edge]]]) -> set[str]:
    """Nodes that mail can come to: along edges, from where it is seeded and from sensors, which outsiders feed."""
    sensors = (node.node_id for node in manifest.nodes if node.agent_type is AgentType.SENSOR)
    reached = {*manifest.initial_inputs, *sensors}
    queue = deque(reached)
    while queue:
        for _, edge in outgoing[queue.popleft()]:
            if edge.to_node not in reached:
                reached.add(edge.to_node)
                queue.append(edge.to_node)
    return reached


def warnings(manifest: Manifest) -> list[Issue]:
    """Everything about *manifest* that deserves a look."""
    graph = Graph.of(manifest)
    return [
        *_unknown_keys(manifest),
        *_unreachable(graph),
        *_unrouted_types(graph),
        *_dead_edges(graph),
        *_conditions_on_nothing(manifest),
        *_thirsty_aggregators(graph),
        *_no_completion(graph),
    ]


def _unknown_keys(manifest: Manifest) -> Iterator[Issue]:
    yield from _extras(manifest, "")
    yield from _extras(manifest.policies, "policies")
    for index, node in enumerate(manifest.nodes):
        path = below("nodes", index)
        yield from _extras(node, path)
        if node.agent_type is not AgentType.MODULE:
            yield from _misspelt(node, f"{path}.config")
    for index, edge in enumerate(manifest.edges):
        path = below("edges", index)
        yield from _extras(edge, path)
        if edge.conditions is not None:
            yield from _extras(edge.conditions, f"{path}.conditions")


def _extras(model: Model, path: str) -> Iterator[Issue]:
    if model.model_extra:
        known = (*words(type(model)), *_ALIASES.get(type(model), ()))
        for key in model.model_extra:
            yield Issue(below(path, key), "unknown key, kept and not used", did_you_mean(key, known))


def _misspelt(node: Node, path: str) -> Iterator[Issue]:
    """A config can hold anything; only what looks like a key of the runtime is worth a word."""
    for key in node.config:
        if key not in _CONFIG_WORDS and (hint := did_you_mean(key, _CONFIG_WORDS)):
            yield Issue(below(path, key), "unknown key, not used", hint)


def _unreachable(graph: Graph) -> Iterator[Issue]:
    for index, node in enumerate(graph.manifest.nodes):
        if node.node_id not in graph.reached:
            hint = "add an edge to it, or make it an entrypoint"
            yield Issue(below("nodes", index), f'"{node.node_id}" cannot be reached from an entrypoint', hint)


def _unrouted_types(graph: Graph) -> Iterator[Issue]:
    for index, node in enumerate(graph.manifest.nodes):
        emitted, key = declared_type(node), type_key(node)
        edges = graph.outgoing[node.node_id]
        if emitted is None or any(edge.message_type in (ANY_TYPE, emitted) for _, edge in edges):
            continue
        explicit = node.config.get(key) is not None
        if not edges and (not explicit or node.config.get("complete_job") is True):
            continue  # the end of the graph
        hint = "add an edge of this type"
        if node.agent_type is AgentType.EXECUTOR:
            hint += f", or set {key} to null if the command emits by itself"
        path = f"{below('nodes', index)}.config.{key}"
        yield Issue(path, f'no edge of "{node.node_id}" carries the type "{emitted}" that it emits', hint)


def _dead_edges(graph: Graph) -> Iterator[Issue]:
    for node in graph.manifest.nodes:
        only = _only_type(node)
        taken: set[str] = set()  # types that an unconditional first_match edge has taken already
        for index, edge in graph.outgoing[node.node_id]:
            path = below("edges", index)
            if only is not None and edge.message_type not in (ANY_TYPE, only):
                what = f'emits only "{only}"' if only else "emits nothing"
                yield Issue(path, f'can never match: "{node.node_id}" {what}', f"it carries {edge.message_type!r}")
            if edge.routing_mode is RoutingMode.FIRST_MATCH:
                if taken & {edge.message_type, ANY_TYPE}:
                    hint = "give the earlier edge a condition, or put this one before it"
                    yield Issue(path, "can never match: an earlier first_match edge takes every such message", hint)
                if edge.expr is None:
                    taken.add(edge.message_type)


def _only_type(node: Node) -> str | None:
    """The one type that the node can emit, "" if it emits nothing, None where it may emit anything."""
    if node.agent_type in (AgentType.AGGREGATOR, AgentType.SENSOR):
        return declared_type(node) or ""
    return declared_type(node) if node.agent_type is AgentType.ROUTER else None


def _conditions_on_nothing(manifest: Manifest) -> Iterator[Issue]:
    for index, edge in enumerate(manifest.edges):
        for name in unknown_roots(edge.expr) if edge.expr else ():
            message = f'"{name}" is no part of a message, so it is always null'
            hint = f"a text is written '{name}', a field of the body body.{name}"
            yield Issue(f"{below('edges', index)}.conditions.expr", message, hint)


def _thirsty_aggregators(graph: Graph) -> Iterator[Issue]:
    most = bounds(graph.manifest, graph.outgoing)
    for index, node in enumerate(graph.manifest.nodes):
        if node.agent_type is not AgentType.AGGREGATOR or node.node_id not in graph.reached:
            continue
        path = f"{below('nodes', index)}.config.complete_after"
        wanted = node.config.get("complete_after")
        if node.config.get("complete_on_message") is True:
            continue
        if wanted is None:
            yield Issue(path, f'"{node.node_id}" collects for ever', "set complete_after or complete_on_message")
        elif wanted > most[node.node_id]:
            message = f"is {wanted}, but at most {int(most[node.node_id])} messages can arrive"
            yield Issue(path, message, "fine only if a command or somebody outside sends more")


def _no_completion(graph: Graph) -> Iterator[Issue]:
    manifest = graph.manifest
    if manifest.daemon or manifest.policies.on_idle is not OnIdle.WAIT:
        return
    if not any(_can_complete(node) for node in manifest.nodes if node.node_id in graph.reached):
        hint = 'set complete_job on a node, or policies.on_idle to "complete"'
        yield Issue("nodes", "nothing in this graph can complete the job", hint)


def _can_complete(node: Node) -> bool:
    """Does the config say so, or leave it to a module, or to a command whose output stands for its result?"""
    config = node.config
    if node.agent_type is AgentType.AGGREGATOR:
        fires = config.get("complete_after") is not None or config.get("complete_on_message") is True
        default = config.get("output_message_type") is None
        chosen = config.get("complete_job")
        return fires and (default if chosen is None else chosen is True)
    if node.agent_type in (AgentType.EXECUTOR, AgentType.SENSOR):
        return config.get("complete_job") is True or declared_type(node) is None
    return node.agent_type is AgentType.MODULE
