"""The message type that each node emits according to its config, and upper bounds of the messages that arrive."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from mirrorneuron.bundle.manifest import ANY_TYPE, EXECUTOR_RESULT, SENSOR_READY, AgentType, Edge, Manifest, Node

Outgoing = Mapping[str, Sequence[tuple[int, Edge]]]

_ADD: Final = "add an edge with this message_type"
_OR_NULL: Final = f"{_ADD}, or set output_message_type to null if the command emits its own messages"
#: what to do about a type that no edge carries
NO_EDGE_HINT: Final = {kind: _OR_NULL if kind is AgentType.EXECUTOR else _ADD for kind in AgentType}

_MANY = 10**12  # larger bounds count as infinite, so that sums stay cheap


def type_key(node: Node) -> str:
    """The config key that names the type of message that the node emits."""
    return "emit_type" if node.agent_type is AgentType.ROUTER else "output_message_type"


def declared_type(node: Node) -> str | None:
    """The type that the node emits according to its config; None if the config does not fix it (an executor: null)."""
    emitted: str | None = node.config.get(type_key(node))
    match node.agent_type:
        case AgentType.MODULE:
            return None
        case AgentType.EXECUTOR:
            return emitted if "output_message_type" in node.config else EXECUTOR_RESULT
        case AgentType.SENSOR:
            return SENSOR_READY if emitted is None else emitted
    return emitted


def chosen_type(node: Node) -> str | None:
    """The type that every run of the node emits because its config names it: a run fails if no edge carries it.

    None if there is none, as for modules, whose config has no such key, and for an aggregator that never fires.
    """
    config = node.config
    if node.agent_type is AgentType.MODULE:
        return None
    fires = config.get("complete_on_message") or config.get("complete_after")
    if node.agent_type is AgentType.AGGREGATOR and not fires:
        return None
    chosen = config.get(type_key(node))
    return chosen if isinstance(chosen, str) and chosen else None


def bounds(manifest: Manifest, outgoing: Outgoing) -> dict[str, float]:
    """Node id -> upper bound of the messages that can arrive without `send_message`.

    Infinite downstream of modules, sensors and loops, and of commands that emit other types.
    """
    nodes = {node.node_id: node for node in manifest.nodes}
    arriving: dict[str, float] = {
        name: math.inf if node.agent_type is AgentType.SENSOR else len(manifest.initial_inputs.get(name, ()))
        for name, node in nodes.items()
    }
    waiting = dict.fromkeys(nodes, 0)
    for edge in manifest.edges:
        waiting[edge.to_node] += 1
    ready = deque(name for name, count in waiting.items() if count == 0)
    settled: set[str] = set()
    while ready:
        name = ready.popleft()
        settled.add(name)
        declared = declared_type(nodes[name])
        for _, edge in outgoing[name]:
            total = arriving[edge.to_node] + _emitted(nodes[name], declared, edge, arriving[name])
            arriving[edge.to_node] = total if total <= _MANY else math.inf
            waiting[edge.to_node] -= 1
            if waiting[edge.to_node] == 0:
                ready.append(edge.to_node)
    return {name: count if name in settled else math.inf for name, count in arriving.items()}


def _emitted(node: Node, declared: str | None, edge: Edge, arriving: float) -> float:
    """Upper bound of the messages that *node* sends along *edge*, if *arriving* messages arrive at it."""
    if arriving == 0:
        return 0
    carried = edge.message_type in (ANY_TYPE, declared)
    match node.agent_type:
        case AgentType.ROUTER:
            return arriving if declared is None or carried else 0
        case AgentType.AGGREGATOR:
            return _fired(node, arriving) if declared is not None and carried else 0
        case AgentType.EXECUTOR if declared is not None and carried:
            return arriving  # one result message for each run; commands that emit more of the same type are rare
    return math.inf


def _fired(node: Node, arriving: float) -> float:
    if node.config.get("complete_on_message") is True:
        return arriving
    wanted = node.config.get("complete_after")
    if wanted is None:
        return 0
    return arriving if arriving == math.inf else arriving // wanted
