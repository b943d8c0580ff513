"""JSON paths and values in issues; each validation error of pydantic becomes an issue with a JSON path."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic_core import ErrorDetails, ValidationError

from mirrorneuron.bundle.suggest import one_of
from mirrorneuron.errors import Issue

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED: Final = re.compile(r"'([^']*)'")
_WANTED: Final = {  # pydantic's error type -> the expected kind of value
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "dict_type": "an object",
    "model_type": "an object",
    "list_type": "a list",
}


def kind(value: Any) -> str:
    """The JSON type of *value*, with an article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"


def shown(value: Any) -> str:
    """*value* for an error message: a string in quotes (at most 80 characters), a number, else the JSON type."""
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 80 else f'"{value[:77]}..."'
    return repr(value) if isinstance(value, int | float) and abs(value) < 10**30 else kind(value)


def below(path: str, key: str | int) -> str:
    """The path of one member: `nodes` and 3 are `nodes[3]`, `config` and "my key" are `config["my key"]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _PLAIN_KEY.fullmatch(key):
        return f'{path}["{key[:80]}"]'
    return f"{path}.{key}" if path else key


def issues_of(path: str, error: ValidationError) -> list[Issue]:
    """An issue for each error, below *path*."""
    return [_issue(path, found) for found in error.errors(include_url=False)]


def _issue(path: str, found: ErrorDetails) -> Issue:
    where = path
    for key in found["loc"]:
        where = below(where, key)
    value, limits = found.get("input"), found.get("ctx", {})
    match found["type"]:
        case "missing":
            return Issue(where, "is required")
        case "enum":
            return _unknown_word(where, str(found["loc"][-1]), value, limits["expected"])
        case "greater_than_equal":
            return Issue(where, f"must be {limits['ge']} or more, not {shown(value)}")
        case "less_than_equal":
            return Issue(where, f"must be {limits['le']} or less, not {shown(value)}")
        case "string_too_short":
            return Issue(where, "must not be empty")
        case "string_too_long":
            return Issue(where, f"must have at most {limits['max_length']} characters")
        case known if known in _WANTED:
            return Issue(where, f"must be {_WANTED[known]}, not {_given(known, value)}")
    return Issue(where, found["msg"])


def _given(error_type: str, value: Any) -> str:
    return shown(value) if error_type == "int_type" else kind(value)


def _unknown_word(path: str, field: str, value: Any, expected: str) -> Issue:
    words = tuple(_QUOTED.findall(expected))  # pydantic says: 'router', 'executor' or 'module'
    if not isinstance(value, str):
        return Issue(path, f"must be a string, not {kind(value)}", f"one of: {', '.join(words)}")
    return Issue(path, f"unknown {field} {shown(value)}", one_of(value, words))
