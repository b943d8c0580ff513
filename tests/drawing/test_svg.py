"""Graphs as SVG: the layout, the parts of the drawing, and the escaping of names."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.drawing.layout import GAP, HEIGHT, LANE, Layout, lay_out
from mirrorneuron.drawing.svg import svg
from mirrorneuron.drawing.text_graph import Mark
from tests.drawing.test_text_graph import NAMES, edge, manifest, node

SVG = "{http://www.w3.org/2000/svg}"
TYPES = ("router", "executor", "aggregator", "sensor", "module")


def laid_out(edges: list[tuple[str, str]], *names: str) -> Layout:
    widths = dict.fromkeys([*names, *(name for ends in edges for name in ends)], 100.0)
    return lay_out(widths, edges, [next(iter(widths))], [60.0] * len(edges))


def drawn(given: Manifest, *states: Any) -> ElementTree.Element:
    return ElementTree.fromstring(svg(given, *states))


def titles(root: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in root.iter(f"{SVG}title")]


EDGES = st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from("abcdefghij")), max_size=40)


@given(EDGES)
def test_edges_lead_to_the_right_unless_they_close_a_cycle(edges: list[tuple[str, str]]) -> None:
    plan = laid_out(edges, *"abcdefghij")
    for number, (source, target) in enumerate(edges):
        ends = [plan.spots[source], *plan.routes[number], plan.spots[target]]
        if number in plan.back:
            assert not plan.routes[number]
        else:
            assert all(x < to_x for (x, _), (to_x, _) in pairwise(ends))
    onward = [ends for number, ends in enumerate(edges) if number not in plan.back]
    assert laid_out(onward, *"abcdefghij").back == frozenset(), "no circle is left"


@given(EDGES)
def test_nodes_do_not_overlap(edges: list[tuple[str, str]]) -> None:
    plan = laid_out(edges, *"abcdefghij")
    places = [(x, y, HEIGHT) for x, y in plan.spots.values()]
    places += [(x, y, LANE) for route in plan.routes for x, y in route]
    for (x, y, tall), (other_x, other_y, other_tall) in combinations(places, 2):
        assert x != other_x or abs(y - other_y) > (tall + other_tall) / 2 + GAP - 0.001
    assert all(0 <= x <= plan.width and 0 <= y <= plan.height for x, y, _ in places)


def test_a_line_is_straight_and_a_fan_is_even() -> None:
    line = laid_out([("a", "b"), ("b", "c")])
    assert len({y for _, y in line.spots.values()}) == 1
    fan = laid_out([("a", "x"), ("a", "y"), ("a", "z"), ("x", "e"), ("y", "e"), ("z", "e")])
    assert fan.spots["a"][1] == fan.spots["e"][1] == fan.spots["y"][1]
    assert fan.spots["x"][1] < fan.spots["y"][1] < fan.spots["z"][1]


def test_rows_are_sorted_so_that_edges_do_not_cross() -> None:
    plan = laid_out([("r", "a"), ("r", "b"), ("a", "y"), ("b", "x")], "r", "a", "b", "x", "y")
    assert (plan.spots["a"][1] < plan.spots["b"][1]) == (plan.spots["y"][1] < plan.spots["x"][1])


def test_a_deep_and_a_wide_graph_are_drawn() -> None:
    deep = [node(f"n{at}") for at in range(3_000)]
    long = [edge(f"n{at}", f"n{at + 1}") for at in range(2_999)]
    assert len(titles(drawn(manifest(*deep, edges=(*long, edge("n0", "n2999")))))) == 1 + 3_000 + 3_000
    skips = [edge("n0", f"n{at}") for at in range(2, 3_000, 3)]
    assert len(titles(drawn(manifest(*deep, edges=(*long, *skips))))) == 1 + 3_000 + 2_999 + len(skips)


def test_nodes_have_shapes_marks_and_labels() -> None:
    nodes = [node(kind, kind, type="map" if kind == "executor" else "generic") for kind in TYPES]
    edges = (edge("router", "executor"), edge("executor", "router", conditions={"expr": "body.a < `3`"}))
    root = drawn(manifest(*nodes, edges=edges), {"executor": Mark.FAILED})
    said = titles(root)
    assert "executor: executor map, failed" in said
    assert "executor to router: work if body.a < `3`" in said
    kinds = [[part.tag.removeprefix(SVG) for part in group][1] for group in root.iter(f"{SVG}g")]
    assert sorted(kinds) == ["path", "path", "polygon", "polygon", "rect", "rect", "rect"]
    assert [part.get("style") for part in root.iter() if part.get("style")] == ["fill:#fbd9d9;stroke:#c62828"]
    assert sum("entry" in (part.get("class") or "") for part in root.iter()) == 1
    assert sum("if" in (part.get("class") or "").split() for part in root.iter()) == 1


def test_loops_and_back_edges_are_within_the_picture() -> None:
    edges = (edge("a", "a"), edge("a", "b"), edge("b", "a"))
    root = drawn(manifest(node("a"), node("b"), edges=edges))
    wide, tall = float(root.get("width", 0)), float(root.get("height", 0))
    for path in root.iter(f"{SVG}path"):
        if path.get("marker-end"):
            for word in (path.get("d") or "").replace("M", " ").replace("C", " ").replace("L", " ").split():
                assert 0 <= float(word) <= max(wide, tall)
    assert "a to a: work" in titles(root)


def test_a_long_name_is_truncated_and_complete_in_the_tooltip() -> None:
    root = drawn(manifest(node("n" * 100)))
    assert titles(root)[1] == f"{'n' * 100}: router"
    assert next(text.text for text in root.iter(f"{SVG}text")) == "n" * 25 + "…"


@given(NAMES, NAMES)
def test_names_are_escaped_in_svg(name: str, kind: str) -> None:
    given = manifest(node(name), graph_id=name, edges=(edge(name, name, message_type=kind),))
    root = drawn(given)
    assert len(titles(root)) == 3
    assert {part.tag.removeprefix(SVG) for part in root.iter()} <= {
        *("svg", "title", "style", "defs", "marker", "path", "rect", "polygon", "text", "g"),
    }


@pytest.mark.parametrize("states", [(), ({},)])
def test_an_empty_graph_is_a_picture_too(states: Any) -> None:
    assert titles(drawn(manifest(), *states)) == ["g"]
