"""The graph of a manifest as Mermaid or Graphviz text; for a job, with the state of each agent.

Pure and deterministic: the same manifest gives the same text. Each agent type has its shape. An edge is labelled with
its message type, and dashed if it has a condition. Labels are escaped: a manifest cannot inject markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, TypeAlias

from mirrorneuron.bundle.manifest import AgentType, Edge, Manifest, Node, RoutingMode, Template
from mirrorneuron.job import AgentSnapshot, AgentStatus


class Mark(StrEnum):
    """The state of an agent, as it is drawn."""

    DONE = "done"  #: has processed all messages so far
    QUEUED = "queued"
    BUSY = "busy"
    FAILED = "failed"


Marks: TypeAlias = Mapping[str, Mark]  # by node id; an agent without a mark has had no message yet

COLOURS: Final[dict[Mark, tuple[str, str]]] = {  # fill, line
    Mark.DONE: ("#d9f2dd", "#2e7d32"),
    Mark.QUEUED: ("#e3ecfa", "#3465a4"),
    Mark.BUSY: ("#fff3c4", "#b8860b"),
    Mark.FAILED: ("#fbd9d9", "#c62828"),
}
MERMAID_SHAPES: Final[dict[AgentType, tuple[str, str]]] = {
    AgentType.ROUTER: ("{{", "}}"),
    AgentType.EXECUTOR: ("[", "]"),
    AgentType.AGGREGATOR: ("[\\", "/]"),
    AgentType.SENSOR: ("([", "])"),
    AgentType.MODULE: ("[[", "]]"),
}
DOT_SHAPES: Final[dict[AgentType, str]] = {
    AgentType.ROUTER: "hexagon",
    AgentType.EXECUTOR: "box",
    AgentType.AGGREGATOR: "invtrapezium",
    AgentType.SENSOR: "ellipse",
    AgentType.MODULE: "component",
}
MODES: Final[dict[RoutingMode, str]] = {
    RoutingMode.FIRST_MATCH: "first match",
    RoutingMode.ROUND_ROBIN: "in turn",
}
# Characters with a meaning in a quoted Mermaid label: entities, markdown, HTML.
_SPECIAL = re.compile(r"[^\w ,.:()=\[\]/?!'+-]|^[-+]|(?<=\d)\.(?= )", re.ASCII)


def marks(agents: Iterable[AgentSnapshot]) -> Marks:
    """The mark of each agent that has had a message."""
    found = ((agent["agent_id"], _mark(agent)) for agent in agents)
    return {name: mark for name, mark in found if mark}


def _mark(agent: AgentSnapshot) -> Mark | None:
    match agent["status"]:
        case AgentStatus.ERROR:
            return Mark.FAILED
        case AgentStatus.BUSY | AgentStatus.RUNNING:
            return Mark.BUSY
        case AgentStatus.QUEUED:
            return Mark.QUEUED
        case _:
            return Mark.DONE if agent["processed_messages"] else None


def mermaid(manifest: Manifest, states: Marks | None = None) -> str:
    """A Mermaid flowchart. Linear in nodes and edges."""
    states = states or {}
    names = {node.node_id: f"n{at}" for at, node in enumerate(manifest.nodes)}
    lines = ["flowchart LR"]
    for node in manifest.nodes:
        opening, closing = MERMAID_SHAPES[node.agent_type]
        mark = f":::{states[node.node_id]}" if node.node_id in states else ""
        label = f'"{_entities(node.node_id)}<br/><small>{_entities(kind(node))}</small>"'
        lines.append(f"  {names[node.node_id]}{opening}{label}{closing}{mark}")
    for edge in manifest.edges:
        arrow = "-.->" if edge.expr else "-->"
        label = _entities(edge_label(edge))
        lines.append(f'  {names[edge.from_node]} {arrow}|"{label}"| {names[edge.to_node]}')
    for entry in manifest.entrypoints:
        lines.append(f"  style {names[entry]} stroke-width:3px")
    for mark in Mark:
        if mark in states.values():
            fill, stroke = COLOURS[mark]
            lines.append(f"  classDef {mark} fill:{fill},stroke:{stroke},color:#222")
    return "\n".join(lines) + "\n"


def dot(manifest: Manifest, states: Marks | None = None) -> str:
    """A Graphviz digraph. Linear in nodes and edges."""
    states = states or {}
    lines = [
        f"digraph {_quoted(manifest.graph_id)} {{",
        "  rankdir=LR;",
        '  node [fontname="Helvetica", style="filled", fillcolor="white"];',
        '  edge [fontname="Helvetica", fontsize=10];',
    ]
    for node in manifest.nodes:
        values = {"label": _quoted(f"{node.node_id}\n{kind(node)}"), "shape": DOT_SHAPES[node.agent_type]}
        if node.node_id in manifest.entrypoints:
            values["penwidth"] = "2"
        if mark := states.get(node.node_id):
            fill, line = COLOURS[mark]
            values |= {"fillcolor": _quoted(fill), "color": _quoted(line), "tooltip": _quoted(mark)}
        lines.append(f"  {_quoted(node.node_id)} [{_attributes(values)}];")
    for edge in manifest.edges:
        values = {"label": _quoted(edge_label(edge))} | ({"style": "dashed"} if edge.expr else {})
        lines.append(f"  {_quoted(edge.from_node)} -> {_quoted(edge.to_node)} [{_attributes(values)}];")
    return "\n".join([*lines, "}"]) + "\n"


def kind(node: Node) -> str:
    """An agent's type, and its template if that is not the generic one."""
    return node.agent_type if node.type is Template.GENERIC else f"{node.agent_type} {node.type}"


def edge_label(edge: Edge) -> str:
    """The message type of an edge, its routing mode and its condition."""
    mode = f" ({MODES[edge.routing_mode]})" if edge.routing_mode in MODES else ""
    return f"{edge.message_type}{mode}" + (f" if {edge.expr}" if edge.expr else "")


def _entities(text: str) -> str:
    """Escape *text* for a quoted Mermaid label: special characters become `#number;`."""
    return _SPECIAL.sub(lambda match: _entity(match[0]), text)


def _entity(char: str) -> str:
    if char.isalnum():
        return char
    return f"#{ord(char)};" if char.isprintable() else " "


def _quoted(text: str) -> str:
    """*text* as a quoted Graphviz string; a line break stays one in the label."""
    safe = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
    escaped = safe.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _attributes(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
