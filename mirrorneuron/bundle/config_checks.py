"""Checks of single config values. Each check yields the issues of one value at one path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from mirrorneuron.bundle.parse import below, kind, shown
from mirrorneuron.bundle.passed_variables import is_private
from mirrorneuron.bundle.suggest import one_of
from mirrorneuron.errors import Issue
from mirrorneuron.limits import MOST
from mirrorneuron.pools import pool_problem

Check = Callable[[Any, str], Iterator[Issue]]

LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_VARIABLE_HINT: Final = "a name is not empty and contains neither `=` nor NUL"
_CLASS: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def whole(least: int) -> Check:
    def check(value: Any, path: str) -> Iterator[Issue]:
        if isinstance(value, bool) or not isinstance(value, int):
            yield Issue(path, f"must be a whole number, not {shown(value)}")
        elif value < least:
            yield Issue(path, f"must be {least} or more, not {shown(value)}")
        elif value > MOST:
            yield Issue(path, f"must be {MOST} or less, not {shown(value)}")

    return check


def seconds(value: Any, path: str) -> Iterator[Issue]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield Issue(path, f"must be a number of seconds, not {shown(value)}")
    elif not 0 < value <= MOST // 1000:
        yield Issue(path, f"must be more than 0 and at most {MOST // 1000} seconds, not {shown(value)}")


def boolean(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, bool):
        yield Issue(path, f"must be true or false, not {kind(value)}")


def text(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, str):
        yield Issue(path, f"must be a string, not {kind(value)}")
    elif not value:
        yield Issue(path, "must not be empty")
    elif "\0" in value:
        yield Issue(path, "must not contain a NUL character")


def sandbox_path(value: Any, path: str) -> Iterator[Issue]:
    yield from text(value, path)
    if isinstance(value, str) and ".." in value.split("/"):
        yield Issue(path, f"{shown(value)} points outside the run folder", "remove the `..`")


def word(choices: tuple[str, ...]) -> Check:
    def check(value: Any, path: str) -> Iterator[Issue]:
        if not isinstance(value, str):
            yield Issue(path, f"must be a string, not {kind(value)}", f"one of: {', '.join(choices)}")
        elif value not in choices:
            yield Issue(path, f"unknown value {shown(value)}", one_of(value, choices))

    return check


def log_level(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, str) or value.upper() not in LOG_LEVELS:
        yield Issue(path, f"must be the name of a log level, not {shown(value)}", f"one of: {', '.join(LOG_LEVELS)}")


def pool(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, str):
        yield Issue(path, f"must be a string, not {kind(value)}")
        return
    problem, hint = pool_problem(value)
    if problem:
        yield Issue(path, f"{shown(value)} {problem}", hint)


def command(value: Any, path: str) -> Iterator[Issue]:
    if isinstance(value, str):
        if not value.strip():
            yield Issue(path, "must not be empty")
        else:
            yield from text(value, path)
    elif not isinstance(value, list):
        yield Issue(path, f"must be a list of strings or a string, not {kind(value)}")
    elif not value:
        yield Issue(path, "must not be empty")
    else:
        yield from _words(value, path)
        if value[0] == "":
            yield Issue(below(path, 0), "must not be empty")


def _words(value: list[Any], path: str) -> Iterator[Issue]:
    for index, item in enumerate(value):
        if not isinstance(item, str):
            hint = f'write "{item}"' if isinstance(item, int | float) and not isinstance(item, bool) else ""
            yield Issue(below(path, index), f"must be a string, not {kind(item)}", hint)
        elif "\0" in item:
            yield Issue(below(path, index), "must not contain a NUL character")


def environment(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, dict):
        yield Issue(path, f"must be an object, not {kind(value)}")
        return
    for name, given in value.items():
        where = below(path, name)
        if not _is_variable(name):
            yield Issue(where, f"{shown(name)} is not a valid variable name", _VARIABLE_HINT)
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            yield Issue(where, f"must be a string or a number, not {kind(given)}")
        elif isinstance(given, str) and "\0" in given:
            yield Issue(where, "must not contain a NUL character")


def pass_env(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, list):
        yield Issue(path, f"must be a list of names, not {kind(value)}")
        return
    for index, name in enumerate(value):
        if not isinstance(name, str):
            yield Issue(below(path, index), f"must be a string, not {kind(name)}")
        elif not _is_variable(name):
            yield Issue(below(path, index), f"{shown(name)} is not a valid variable name", _VARIABLE_HINT)
        elif is_private(name):
            yield Issue(below(path, index), f"{shown(name)} belongs to the node and is never passed to a command")


def _is_variable(name: str) -> bool:
    return bool(name) and "=" not in name and "\0" not in name


def python_class(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, str) or not _CLASS.fullmatch(value):
        yield Issue(path, f"{shown(value)} is not a valid class path", 'write it like "package.module:Class"')
