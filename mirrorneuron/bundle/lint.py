"""Warnings: parts of a valid manifest that are probably mistakes.

Every rule is linear in nodes and edges and expects a manifest without issues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mirrorneuron.bundle.conditions import unknown_roots
from mirrorneuron.bundle.config_lint import keys_without_effect, node_key_hint, priorities
from mirrorneuron.bundle.manifest import ANY_TYPE, AgentType, Edge, Manifest, Node, OnIdle, RoutingMode
from mirrorneuron.bundle.message_bounds import NO_EDGE_HINT, bounds, declared_type, type_key
from mirrorneuron.bundle.parse import below
from mirrorneuron.bundle.schema import Model, words
from mirrorneuron.bundle.suggest import did_you_mean
from mirrorneuron.errors import Issue

_ALIASES: Final[dict[type, tuple[str, ...]]] = {Manifest: ("long_lived",)}


@dataclass(frozen=True, slots=True)
class Graph:
    """The manifest with its edges grouped by node."""

    manifest: Manifest
    outgoing: dict[str, list[tuple[int, Edge]]]  #: node id -> outgoing edges, each with its index in the manifest
    reached: frozenset[str]  #: ids of the nodes that a message can arrive at

    @classmethod
    def of(cls, manifest: Manifest) -> Graph:
        outgoing: dict[str, list[tuple[int, Edge]]] = {node.node_id: [] for node in manifest.nodes}
        for index, edge in enumerate(manifest.edges):
            outgoing[edge.from_node].append((index, edge))
        return cls(manifest, outgoing, frozenset(_reached(manifest, outgoing)))


def _reached(manifest: Manifest, outgoing: dict[str, list[tuple[int, Edge]]]) -> set[str]:
    """Nodes that a message can reach, starting from nodes with initial inputs and sensors (fed by `send_message`)."""
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
    """Every warning about *manifest*."""
    graph = Graph.of(manifest)
    return [
        *_unknown_keys(manifest),
        *priorities(manifest),
        *_unreachable(graph),
        *_unrouted_types(graph),
        *_dead_edges(graph),
        *_conditions_on_unknown_fields(manifest),
        *_starved_aggregators(graph),
        *_no_completion(graph),
    ]


def _unknown_keys(manifest: Manifest) -> Iterator[Issue]:
    yield from _extras(manifest, "")
    yield from _extras(manifest.policies, "policies")
    for index, node in enumerate(manifest.nodes):
        path = below("nodes", index)
        yield from _extras(node, path)
        yield from keys_without_effect(node, path)
    for index, edge in enumerate(manifest.edges):
        path = below("edges", index)
        yield from _extras(edge, path)
        if edge.conditions is not None:
            yield from _extras(edge.conditions, f"{path}.conditions")


def _extras(model: Model, path: str) -> Iterator[Issue]:
    if model.model_extra:
        known = (*words(type(model)), *_ALIASES.get(type(model), ()))
        for key in model.model_extra:
            hint = did_you_mean(key, known) or (node_key_hint(key) if isinstance(model, Node) else "")
            yield Issue(below(path, key), "unknown key; kept but not used", hint)


def _unreachable(graph: Graph) -> Iterator[Issue]:
    for index, node in enumerate(graph.manifest.nodes):
        if node.node_id not in graph.reached:
            hint = "add an edge to the node, or make it an entrypoint"
            yield Issue(below("nodes", index), "cannot be reached from an entrypoint", hint)


def _unrouted_types(graph: Graph) -> Iterator[Issue]:
    for index, node in enumerate(graph.manifest.nodes):
        emitted, key = declared_type(node), type_key(node)
        edges = graph.outgoing[node.node_id]
        if emitted is None or any(edge.message_type in (ANY_TYPE, emitted) for _, edge in edges):
            continue
        explicit = node.config.get(key) is not None
        if not edges and (not explicit or node.config.get("complete_job") is True):
            continue  # a node at the end of the graph needs no edge
        path = f"{below('nodes', index)}.config.{key}"
        yield Issue(path, f'no outgoing edge carries the emitted type "{emitted}"', NO_EDGE_HINT[node.agent_type])


def _dead_edges(graph: Graph) -> Iterator[Issue]:
    for node in graph.manifest.nodes:
        only = _only_type(node)
        taken: set[str] = set()  # types of earlier first_match edges without a condition
        for index, edge in graph.outgoing[node.node_id]:
            path = below("edges", index)
            if only is not None and edge.message_type not in (ANY_TYPE, only):
                what = f'emits only "{only}"' if only else "emits nothing"
                hint = f'change its message_type, which is "{edge.message_type}"'
                yield Issue(path, f'can never match: node "{node.node_id}" {what}', hint)
            if edge.routing_mode is RoutingMode.FIRST_MATCH:
                if taken & {edge.message_type, ANY_TYPE}:
                    hint = "add a condition to the earlier edge, or put this edge before it"
                    message = "can never match: an earlier first_match edge without a condition gets every such message"
                    yield Issue(path, message, hint)
                if edge.expr is None:
                    taken.add(edge.message_type)


def _only_type(node: Node) -> str | None:
    """The only type that the node can emit; "" if it emits nothing; None if it may emit any type."""
    if node.agent_type in (AgentType.AGGREGATOR, AgentType.SENSOR):
        return declared_type(node) or ""
    return declared_type(node) if node.agent_type is AgentType.ROUTER else None


def _conditions_on_unknown_fields(manifest: Manifest) -> Iterator[Issue]:
    for index, edge in enumerate(manifest.edges):
        for name in unknown_roots(edge.expr) if edge.expr else ():
            message = f'"{name}" is not a field of a message, so its value is always null'
            hint = f"write a string as '{name}', a field of the body as body.{name}"
            yield Issue(f"{below('edges', index)}.conditions.expr", message, hint)


def _starved_aggregators(graph: Graph) -> Iterator[Issue]:
    most = bounds(graph.manifest, graph.outgoing)
    for index, node in enumerate(graph.manifest.nodes):
        if node.agent_type is not AgentType.AGGREGATOR or node.node_id not in graph.reached:
            continue
        path = f"{below('nodes', index)}.config.complete_after"
        wanted = node.config.get("complete_after")
        if node.config.get("complete_on_message") is True:
            continue
        if wanted is None:
            yield Issue(path, "is not set, so the aggregator never fires", "set complete_after or complete_on_message")
        elif wanted > most[node.node_id]:
            message = f"is {wanted}, but at most {int(most[node.node_id])} messages can arrive"
            yield Issue(path, message, "ignore this if a command emits more, or send_message sends more")


def _no_completion(graph: Graph) -> Iterator[Issue]:
    manifest = graph.manifest
    if manifest.daemon or manifest.policies.on_idle is not OnIdle.WAIT:
        return
    if not any(_can_complete(node) for node in manifest.nodes if node.node_id in graph.reached):
        hint = 'set complete_job on a node, or policies.on_idle to "complete"'
        yield Issue("nodes", "no node of the graph can complete the job", hint)


def _can_complete(node: Node) -> bool:
    """True if the config completes the job, or if a module or a command may complete it."""
    config = node.config
    if node.agent_type is AgentType.AGGREGATOR:
        fires = config.get("complete_after") is not None or config.get("complete_on_message") is True
        default = config.get("output_message_type") is None
        chosen = config.get("complete_job")
        return fires and (default if chosen is None else chosen is True)
    if node.agent_type in (AgentType.EXECUTOR, AgentType.SENSOR):
        return config.get("complete_job") is True or declared_type(node) is None
    return node.agent_type is AgentType.MODULE
