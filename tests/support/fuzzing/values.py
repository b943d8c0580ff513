"""Untrusted values: any JSON, mutated valid JSON, and mutated bytes."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from mirrorneuron.message import encode

Strategy = st.SearchStrategy[Any]


def nested(levels: int) -> Any:
    """A list nested *levels* deep."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
#: JSON values that readers often mishandle
NASTY = st.sampled_from(
    [
        *("", " ", "\0", "\n", "..", "/", "{", "}", "*", "NaN", "\x7f", "\u2028", "\U0001f600", "a" * 300, "${a}"),
        *(0, -1, 1.5, 1e308, 2**63, 10**13, 10**400, -(10**400), True, None, [], {}, [[]], {"": ""}),
        *(nested(n) for n in (60, 180, 190, 194, 195, 196, 197, 198, 199)),
    ]
)
ANYTHING = (NASTY | SCALARS | JSON).map(copy.deepcopy)  # `sampled_from` returns the same object for every draw


def _parents(value: Any) -> list[Any]:
    """Every non-empty list and object, outer ones first; only the first levels of a deep value."""
    found, level = [], [value]
    for _ in range(8):
        level = [item for item in level if isinstance(item, list | dict) and item]
        found += level
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return found


@st.composite
def mutated(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """The JSON *value* after up to *most* mutations: an item replaced, removed, added or duplicated."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        parents = _parents(value)
        if not parents:
            return value
        parent = draw(st.sampled_from(parents))
        place = draw(st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent))))
        match draw(st.sampled_from(["other", "other", "other", "gone", "more", "twice"])):
            case "other":
                parent[place] = draw(ANYTHING)
            case "gone":
                del parent[place]
            case "more" if isinstance(parent, dict):
                parent[draw(st.text() | st.sampled_from(["id", "type", "config", "envelope"]))] = draw(ANYTHING)
            case "twice" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[place]))
    return value


@st.composite
def garbled(draw: st.DrawFn, data: bytes, most: int = 3) -> bytes:
    """*data* after up to *most* mutations: cut off, bits flipped, a piece removed, duplicated or replaced."""
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.integers(0, 600))
        match draw(st.sampled_from(["cut", "bit", "bit", "gone", "twice", "other"])):
            case "cut":
                data = data[:at]
            case "bit":
                data = (
                    data[:at]
                    + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1])
                    + data[at + 1 :]
                )
            case "gone":
                data = data[:at] + data[at + piece :]
            case "twice":
                data = data[:at] + data[at : at + piece] + data[at:]
            case "other":
                data = data[:at] + draw(st.binary(max_size=600)) + data[at + piece :]
    return data


def documents(*examples: Any) -> Strategy:
    """JSON text: one of *examples* with mutated values or bytes, or any other value."""
    return st.one_of(
        *(mutated(example).map(_text) for example in examples),
        *(garbled(encode(example)) for example in examples),
        ANYTHING.map(_text),
        st.binary(max_size=200),
        st.sampled_from([b"", b"{}", b"null", b'{"a": 1e999}', b'{"a": NaN}', b"[" * 100_000, b'"\\ud800"', b"\xff"]),
    )


def _text(value: Any) -> bytes:
    """*value* as JSON bytes; 201 nested lists if it cannot be encoded."""
    try:
        return encode(value)
    except ValueError:
        return b"[" * 201 + b"]" * 201
