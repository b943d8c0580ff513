"""Finds what JSON readers and writers change without an error: duplicate keys, and values of other Python types."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from mirrorneuron.bundle.parse import below
from mirrorneuron.bundle.schema import Model

MAX_REPORTED: Final = 100  #: duplicate keys of one text, and values of one object
_MAX_DEPTH: Final = 200  #: levels that the JSON parser reads
_SCALARS: Final = frozenset({str, int, bool, type(None)})

Pairs = list[tuple[str, Any]]


def duplicate_keys(text: bytes | str) -> list[str]:
    """The paths of the keys that an object in *text*, which is valid JSON, has more than once. Linear."""
    found: dict[int, tuple[dict[str, Any], Pairs]] = {}  # by id; holds the object, so that its id is not reused

    def read_object(pairs: Pairs) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            found[id(value)] = value, pairs
        return value

    # Only names count: numbers stay text, which is faster and has no limit of digits.
    decoder = json.JSONDecoder(object_pairs_hook=read_object, parse_int=str, parse_float=str, strict=False)
    value = decoder.decode(text if isinstance(text, str) else text.decode("utf-8"))
    if not found:
        return []
    return list(islice(dict.fromkeys(_duplicates(value, "", found)), MAX_REPORTED))


def _duplicates(value: Any, path: str, found: dict[int, tuple[dict[str, Any], Pairs]]) -> Iterator[str]:
    if isinstance(value, dict):
        _, pairs = found.get(id(value), (None, None))
        seen: set[str] = set()
        for key, item in value.items() if pairs is None else pairs:
            where = below(path, key)
            if key in seen:
                yield where
            seen.add(key)
            yield from _duplicates(item, where, found)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _duplicates(item, below(path, index), found)


def inexact_values(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Path and problem of each part of *value* that JSON cannot hold exactly: sets, dates, NaN, keys of other types.

    The encoder would write most of them as something else. Subclasses of str, int, float, dict and list are accepted.
    """
    return list(islice(_inexact(value, path, 0), MAX_REPORTED))


def _inexact(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Model):
        extra: Any = value.model_extra
        if not isinstance(extra, dict):
            yield below(path, "model_extra"), f"must be a dict, not {type(extra).__name__}"
            return
        value = {**vars(value), **extra}
        del value["model_extra"]
    if isinstance(value, dict | list):
        if depth >= _MAX_DEPTH:
            yield f"{path[:60]}...", "is nested too deeply, or contains itself"
            return
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    yield path, f"has the key {_short(key)}; keys of JSON objects are strings"
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            kind = type(item)  # a call for each item would take a second for a million numbers
            if kind not in _SCALARS and not (kind is float and math.isfinite(item)):
                place = key if isinstance(key, str | int) and type(key) is not bool else _short(key)
                yield from _inexact(item, below(path, place), depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield path, f"is {value}; NaN and Infinity are not valid JSON"
    elif value is not None and not isinstance(value, str | int):
        hint = "; use a list" if isinstance(value, tuple | set | frozenset) else ""
        yield path, f"is of type {type(value).__name__}, which is not a JSON type{hint}"


def _short(key: object) -> str:
    return f"{key!r:.80}"
