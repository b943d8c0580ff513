"""Lay out the nodes of a graph for a drawing: in ranks from left to right, with few crossings. Pure.

The layered method of Sugiyama, Tagawa and Toda (1981) in a simple form: edges that close a cycle are ignored, the rank
of a node is the longest path to it, an edge over several ranks gets a place in each of them, and each rank is sorted
by the mean place of the neighbours, in several passes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Final, TypeAlias

SWEEPS: Final = 4  # sorting passes over all ranks, alternating in direction
HEIGHT: Final = 40.0  # height of a node
GAP: Final = 18.0  # between two nodes of a rank
LANE: Final = 12.0  # height of the place of an edge in a rank
MAX_LANES: Final = 20_000  # with more places of edges than this, edges are drawn without any

Item: TypeAlias = str | tuple[int, int]  # a node, or the place of an edge (its number) in a rank
Edge: TypeAlias = tuple[str, str]
Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Layout:
    """The centres of nodes, the points that each edge passes through, and the back edges."""

    spots: Mapping[str, Point]
    routes: Sequence[Sequence[Point]]  #: one for each edge, without its ends
    back: frozenset[int]  #: indices of back edges, those from a node to itself included
    width: float
    height: float


def lay_out(widths: Mapping[str, float], edges: Sequence[Edge], roots: Sequence[str], gaps: Sequence[float]) -> Layout:
    """Lay out nodes by name -> width, from *roots*. *gaps* is the width of the label of each edge."""
    back = _back_edges(widths, edges, roots)
    ranks = _ranks(widths, edges, back)
    onward = [number for number in range(len(edges)) if number not in back]
    lanes = {n: range(ranks[edges[n][0]] + 1, ranks[edges[n][1]]) for n in onward}
    if sum(map(len, lanes.values())) > MAX_LANES:
        lanes = {n: range(0) for n in onward}
    rows, before, after = _rows(ranks, edges, lanes)
    _sort(rows, before, after)
    xs, width = _columns(rows, widths, {n: ranks[edges[n][0]] for n in onward}, gaps)
    ys, height = _heights(rows, before, after)
    spots = {name: (xs[rank], ys[name]) for name, rank in ranks.items()}
    routes = [[(xs[rank], ys[n, rank]) for rank in lanes.get(n, ())] for n in range(len(edges))]
    return Layout(spots, routes, back, width, height)


def _back_edges(names: Iterable[str], edges: Sequence[Edge], roots: Sequence[str]) -> frozenset[int]:
    """The back edges: those that close a cycle in a depth-first walk from the roots."""
    out: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, (source, target) in enumerate(edges):
        out[source].append((number, target))
    found: set[int] = set()
    seen: set[str] = set()
    path: set[str] = set()
    for start in [*roots, *names]:
        if start in seen:
            continue
        walk = [(start, iter(out[start]))]
        seen.add(start)
        path.add(start)
        while walk:
            name, ways = walk[-1]
            for number, target in ways:
                if target in path:
                    found.add(number)
                elif target not in seen:
                    seen.add(target)
                    path.add(target)
                    walk.append((target, iter(out[target])))
                    break
            else:
                path.discard(name)
                walk.pop()
    return frozenset(found)


def _ranks(names: Iterable[str], edges: Sequence[Edge], back: frozenset[int]) -> dict[str, int]:
    """The length of the longest path to each node."""
    out: dict[str, list[str]] = defaultdict(list)
    left = dict.fromkeys(names, 0)
    for number, (source, target) in enumerate(edges):
        if number not in back:
            out[source].append(target)
            left[target] += 1
    ranks = dict.fromkeys(left, 0)
    free = [name for name, count in left.items() if not count]
    for name in free:  # the list grows during the loop
        for target in out[name]:
            ranks[target] = max(ranks[target], ranks[name] + 1)
            left[target] -= 1
            if not left[target]:
                free.append(target)
    return ranks


Links: TypeAlias = Mapping[Item, list[Item]]


def _rows(
    ranks: Mapping[str, int], edges: Sequence[Edge], lanes: Mapping[int, range]
) -> tuple[list[list[Item]], Links, Links]:
    """The items of each rank, and the neighbours of each item in the rank before and after it."""
    rows: list[list[Item]] = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    for name, rank in ranks.items():
        rows[rank].append(name)
    before: dict[Item, list[Item]] = defaultdict(list)
    after: dict[Item, list[Item]] = defaultdict(list)
    for number, between in lanes.items():
        source, target = edges[number]
        way: list[Item] = [source, *((number, rank) for rank in between), target]
        for rank in between:
            rows[rank].append((number, rank))
        for one, next_one in pairwise(way):
            after[one].append(next_one)
            before[next_one].append(one)
    return rows, before, after


def _sort(rows: list[list[Item]], before: Links, after: Links) -> None:
    place = {item: float(at) for row in rows for at, item in enumerate(row)}
    for sweep in range(SWEEPS):
        links = after if sweep % 2 else before
        for row in reversed(rows) if sweep % 2 else rows:
            row.sort(key=lambda item: fmean(place[other] for other in links[item]) if links[item] else place[item])
            place |= {item: float(at) for at, item in enumerate(row)}


def _columns(
    rows: Sequence[Sequence[Item]], widths: Mapping[str, float], starts: Mapping[int, int], gaps: Sequence[float]
) -> tuple[list[float], float]:
    """The centre of each rank, and the total width."""
    room = [0.0] * len(rows)
    for number, rank in starts.items():
        room[rank] = max(room[rank], gaps[number])
    xs: list[float] = []
    x = 0.0
    for rank, row in enumerate(rows):
        wide = max((widths[item] for item in row if isinstance(item, str)), default=0.0)
        xs.append(x + wide / 2)
        x += wide + (room[rank] if rank + 1 < len(rows) else 0.0)
    return xs, x


def _heights(rows: Sequence[Sequence[Item]], before: Links, after: Links) -> tuple[dict[Item, float], float]:
    """The vertical place of each item, near those of its neighbours, and the total height."""
    ys: dict[Item, float] = {}
    for links, order in ((before, rows), (after, list(reversed(rows))), (before, rows)):
        for row in order:
            _place(row, {item: fmean(ys[o] for o in links[item]) for item in row if links[item]}, ys)
    top = min((y - _tall(item) / 2 for item, y in ys.items()), default=0.0)
    bottom = max((y + _tall(item) / 2 for item, y in ys.items()), default=0.0)
    return {item: y - top for item, y in ys.items()}, bottom - top


def _place(row: Sequence[Item], wanted: Mapping[Item, float], ys: dict[Item, float]) -> None:
    """Place the items of *row* below each other, on average as near to *wanted* as possible."""
    found: list[float] = []
    low = -math.inf
    for item in row:
        half = _tall(item) / 2
        found.append(max(low + half, wanted.get(item, ys.get(item, low + half if found else 0.0))))
        low = found[-1] + half + GAP
    off = [at - wanted[item] for item, at in zip(row, found, strict=True) if item in wanted]
    shift = fmean(off) if off else 0.0
    ys |= {item: at - shift for item, at in zip(row, found, strict=True)}


def _tall(item: Item) -> float:
    return HEIGHT if isinstance(item, str) else LANE
