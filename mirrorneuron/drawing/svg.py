"""The graph of a manifest as a self-contained SVG document: no other program, no script, no font file.

Pure and deterministic, with the shapes, colours and labels of `text_graph`. Long labels are truncated, with the full
text in the tooltip. Text is escaped: a manifest cannot inject markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

from mirrorneuron.bundle.manifest import AgentType, Edge, Manifest, Node
from mirrorneuron.drawing.layout import HEIGHT, Point, lay_out
from mirrorneuron.drawing.text_graph import COLOURS, Marks, edge_label, kind

LETTER: Final = 7.2  # width of a letter at 12 px
NARROWEST: Final = 90.0  # width of a node
LONGEST: Final = 26  # letters of a name or label before it is truncated
MARGIN: Final = 20.0
SLANT: Final = 12.0  # horizontal offset of the sides of a hexagon or trapezium
LOOP: Final = 26.0  # the height of an edge from a node to itself
LANE: Final = 18.0  # distance of two back edges, below all nodes
TURN: Final = 36.0  # horizontal room for a back edge next to its nodes
LEAST_GAP: Final = 60.0  # between two ranks
STYLE: Final = (
    "text{font:12px Helvetica,Arial,sans-serif;fill:#222;text-anchor:middle}"
    ".kind{font-size:10px;fill:#666}"
    ".label{font-size:10px;fill:#444;paint-order:stroke;stroke:#fff;stroke-width:4px}"
    ".edge{fill:none;stroke:#667;stroke-width:1.3}"
    ".node{fill:#fff;stroke:#445;stroke-width:1.3}"
    ".if{stroke-dasharray:5 4}"
    ".entry{stroke-width:3}"
)
HEAD: Final = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L10 5L0 10z" fill="#667"/></marker></defs>'
)


def svg(manifest: Manifest, states: Marks | None = None) -> str:
    """Return an SVG document; *states* colours the agents of a job."""
    states = states or {}
    widths = {node.node_id: _width(node) for node in manifest.nodes}
    labels = [_cut(edge_label(edge)) for edge in manifest.edges]
    gaps = [max(LEAST_GAP, _long(label) * LETTER * 0.85 + 30) for label in labels]
    ends = [(edge.from_node, edge.to_node) for edge in manifest.edges]
    plan = lay_out(widths, ends, manifest.entrypoints, gaps)
    loops = any(source == target for source, target in ends)
    lanes = {number: at for at, number in enumerate(sorted(n for n in plan.back if ends[n][0] != ends[n][1]), start=1)}
    left, top = MARGIN + (TURN if lanes else 0), MARGIN + (LOOP if loops else 0)
    wide, tall = plan.width + 2 * left, plan.height + top + MARGIN + LANE * len(lanes)
    spots = {name: (x + left, y + top) for name, (x, y) in plan.spots.items()}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}"'
        f' width="{wide:.0f}" height="{tall:.0f}" role="img">',
        f"<title>{_text(manifest.graph_id)}</title><style>{STYLE}</style>{HEAD}",
        f'<rect width="{wide:.0f}" height="{tall:.0f}" fill="#fff"/>',
    ]
    for number, edge in enumerate(manifest.edges):
        (x, y), (to_x, to_y) = spots[edge.from_node], spots[edge.to_node]
        tips = (x + widths[edge.from_node] / 2, y), (to_x - widths[edge.to_node] / 2, to_y)
        if number in lanes:
            path, middle = _back(*tips, tall - MARGIN - LANE * (len(lanes) - lanes[number]))
        elif number in plan.back:
            path, middle = _loop((x, y))
        else:
            path, middle = _along([tips[0], *((x + left, y + top) for x, y in plan.routes[number]), tips[1]])
        parts += _edge(edge, path, middle, labels[number])
    for node in manifest.nodes:
        parts += _node(node, spots[node.node_id], widths[node.node_id], node.node_id in manifest.entrypoints, states)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _node(node: Node, at: Point, width: float, entry: bool, states: Marks) -> Iterator[str]:
    x, y = at
    mark = states.get(node.node_id)
    colours = 'style="fill:{};stroke:{}" '.format(*COLOURS[mark]) if mark else ""
    looks = f'{colours}class="node{" entry" if entry else ""}"'
    said = f"{node.node_id}: {kind(node)}" + (f", {mark}" if mark else "")
    yield f"<g><title>{_text(said)}</title>{_shape(node.agent_type, x, y, width, looks)}"
    yield f'<text x="{x:.1f}" y="{y - 2:.1f}">{_text(_cut(node.node_id))}</text>'
    yield f'<text class="kind" x="{x:.1f}" y="{y + 12:.1f}">{_text(kind(node))}</text></g>'


def _shape(agent: AgentType, x: float, y: float, width: float, looks: str) -> str:
    left, right, top, bottom = x - width / 2, x + width / 2, y - HEIGHT / 2, y + HEIGHT / 2
    match agent:
        case AgentType.ROUTER:
            corners = [(left, y), (left + SLANT, top), (right - SLANT, top)]
            corners += [(right, y), (right - SLANT, bottom), (left + SLANT, bottom)]
            return f'<polygon {looks} points="{_points(corners)}"/>'
        case AgentType.AGGREGATOR:
            corners = [(left, top), (right, top), (right - SLANT, bottom), (left + SLANT, bottom)]
            return f'<polygon {looks} points="{_points(corners)}"/>'
    round_ = HEIGHT / 2 if agent is AgentType.SENSOR else 3
    box = f'<rect {looks} x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{HEIGHT:.0f}" rx="{round_:.0f}"/>'
    if agent is AgentType.MODULE:
        lines = "".join(f"M{at:.1f} {top:.1f}V{bottom:.1f}" for at in (left + 6, right - 6))
        box += f'<path class="edge" d="{lines}"/>'
    return box


def _points(corners: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _edge(edge: Edge, path: str, middle: Point, label: str) -> Iterator[str]:
    dashed = " if" if edge.expr else ""
    said = f"{edge.from_node} to {edge.to_node}: {edge_label(edge)}"
    yield f'<g><title>{_text(said)}</title><path class="edge{dashed}" d="{path}" marker-end="url(#head)"/>'
    yield f'<text class="label" x="{middle[0]:.1f}" y="{middle[1] - 4:.1f}">{_text(label)}</text></g>'


def _along(points: Sequence[Point]) -> tuple[str, Point]:
    """A smooth path through *points*, and the place of its label: the middle of the first segment."""
    path = "M{:.1f} {:.1f}".format(*points[0])
    for (x, y), (to_x, to_y) in pairwise(points):
        turn = (x + to_x) / 2
        path += f"C{turn:.1f} {y:.1f} {turn:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
    (x, y), (to_x, to_y) = points[0], points[1]
    return path, ((x + to_x) / 2, (y + to_y) / 2)


def _back(start: Point, end: Point, deep: float) -> tuple[str, Point]:
    """The path of a back edge, below all nodes, and the place of its label."""
    (x, y), (to_x, to_y) = start, end
    path = f"M{x:.1f} {y:.1f}C{x + TURN:.1f} {y:.1f} {x + TURN:.1f} {deep:.1f} {x - TURN:.1f} {deep:.1f}"
    path += (
        f"L{to_x + TURN:.1f} {deep:.1f}C{to_x - TURN:.1f} {deep:.1f} {to_x - TURN:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
    )
    return path, ((x + to_x) / 2, deep)


def _loop(at: Point) -> tuple[str, Point]:
    """The path of an edge from a node to itself, above the node, and the place of its label."""
    (x, y), up = at, HEIGHT / 2 + LOOP
    foot = HEIGHT / 2
    path = (
        f"M{x + 16:.1f} {y - foot:.1f}C{x + 16:.1f} {y - up:.1f} {x - 16:.1f} {y - up:.1f} {x - 16:.1f} {y - foot:.1f}"
    )
    return path, (x + 34, y - foot - 2)


def _width(node: Node) -> float:
    return max(NARROWEST, _long(_cut(node.node_id)) * LETTER + 2 * SLANT + 8, _long(kind(node)) * LETTER + 2 * SLANT)


def _long(text: str) -> int:
    """The width of *text* in letters; East Asian wide characters count as two."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _text(text: str) -> str:
    """*text* escaped for XML, with control characters, which XML forbids, as spaces."""
    return escape("".join(char if char.isprintable() else " " for char in text))
