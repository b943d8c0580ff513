"""Conditions of edges: JMESPath over a message, compiled once and evaluated for each message.

`${payload.outputs.branch} == "low"` is accepted too and means `body.outputs.branch == 'low'`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathTypeError
from jmespath.functions import Functions
from jmespath.parser import ParsedResult

from mirrorneuron.bundle.evaluation import Meter
from mirrorneuron.bundle.suggest import did_you_mean

MESSAGE_PARTS: Final = (
    "envelope",
    "headers",
    "body",
    "artifacts",
    "stream",
)  # the fields at the root of every expression
MAX_LENGTH: Final = 10_000  #: characters of one expression
MAX_DEPTH: Final = 200  #: nested parts, which the interpreter evaluates recursively; `a || b || c` has 3
MAX_PROJECTIONS: Final = 50  #: parts that go through a list: `[*]`, `.*`, `[]`, `[?...]`, slices
MAX_CALLS: Final = 200  #: calls of functions
SHOWN: Final = 80  #: characters of an expression in an error

_PROJECTIONS: Final = frozenset({"projection", "value_projection", "filter_projection", "flatten"})

# A quotation without an end reaches to the end of the text, so that each character is read a bounded number of times.
_TOKEN: Final = re.compile(
    r"""
      (?P<kept>'(?:[^'\\]|\\.)*(?:'|\\?\Z) | `(?:[^`\\]|\\.)*(?:`|\\?\Z))  # literals stay as they are
    | (?P<dot>\.)?(?P<text>"(?:[^"\\]|\\.)*(?:"|\\?\Z))(?P<colon>\s*:)?   # a."key" and {"key": ...} stay too
    | \$\{(?P<place>[^{}]*)\}
    | (?P<sign>[=!<>]=|[<>])(?P<gap>\s*)(?P<plain>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.([])
    """,
    re.VERBOSE | re.DOTALL,
)


def normalise(text: str) -> str:
    """*text* as plain JMESPath. Text without a `${...}` outside quotes is plain JMESPath, and is returned unchanged."""
    if "${" not in text or not any(match["place"] is not None for match in _TOKEN.finditer(text)):
        return text
    return _TOKEN.sub(_plain, text)


def _plain(match: re.Match[str]) -> str:
    if match["place"] is not None:
        return re.sub(r"^payload(?![\w(])", "body", match["place"].strip())
    if match["text"] is not None and match["dot"] is None and match["colon"] is None:
        return _literal(match["text"])
    if match["plain"] is not None:
        return f"{match['sign']}{match['gap']}`{match['plain']}`"
    return match[0]


def _literal(quoted: str) -> str:
    """A double-quoted string as a JMESPath literal: `'low'`, or JSON in backticks if it contains `'` or a backslash."""
    inner = quoted[1:-1]
    if "'" in inner or "\\" in inner:
        return "`" + quoted.replace("`", "\\`") + "`"
    return f"'{inner}'"


@lru_cache(maxsize=1024)
def compile_condition(text: str) -> ParsedResult:
    """Compile a condition. Raises ValueError, with a one-line message, for bad syntax and unknown functions."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the expression has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        compiled = jmespath.compile(normalise(text))
        problem = _excess(compiled.parsed) or next(_bad_calls(compiled.parsed), "")
    except RecursionError:
        raise ValueError("the expression is nested too deeply") from None
    except Exception as error:  # jmespath raises several types; the cause is always the text
        raise ValueError(_one_line(error)) from None
    if problem:
        raise ValueError(problem)
    return compiled


def holds(compiled: ParsedResult, message: Mapping[str, Any], meter: Meter) -> bool:
    """True if the condition holds for *message* (the dict of `Message.as_dict`), as evaluated by *meter*.

    In JMESPath null, false and empty values are false; 0 is true. Raises ValueError, with the beginning of the
    expression, if the evaluation fails or the budget of *meter* is used up.
    """
    try:
        value = meter.evaluate(compiled.parsed, message)
    except Exception as error:  # jmespath raises several types, depending on the message
        raise ValueError(f"condition {shorten(compiled.expression)!r}: {_one_line(error)}") from None
    return not (value is None or value is False or value == "" or value == [] or value == {})


@lru_cache(maxsize=1024)
def unknown_roots(text: str) -> tuple[str, ...]:
    """Names that a condition reads at the root of the message and that no message has; their value is always null."""
    return tuple(sorted(set(_roots(compile_condition(text).parsed)) - set(MESSAGE_PARTS)))


def shorten(expression: str) -> str:
    """The beginning of *expression*, for an error."""
    return expression if len(expression) <= SHOWN else f"{expression[:SHOWN]}..."


def _excess(tree: Mapping[str, Any]) -> str:
    """Which bound the parsed expression exceeds, in one line; "" if none."""
    projections = calls = 0
    level: list[Any] = [tree]  # the parts of one depth; iterative, because the depth is not known to be small
    for _ in range(MAX_DEPTH):
        if not level:
            break
        projections += sum(part["type"] in _PROJECTIONS for part in level)
        calls += sum(part["type"] == "function_expression" for part in level)
        # The children of a slice are numbers.
        level = [child for part in level if part["type"] != "slice" for child in part["children"]]
    if level:
        return f"the expression is nested too deeply; at most {MAX_DEPTH} levels are allowed"
    if projections > MAX_PROJECTIONS:
        return f"the expression has {projections} projections and filters; at most {MAX_PROJECTIONS} are allowed"
    if calls > MAX_CALLS:
        return f"the expression has {calls} function calls; at most {MAX_CALLS} are allowed"
    return ""


def _bad_calls(tree: Mapping[str, Any]) -> Iterator[str]:
    """Problems of the function calls in the expression; jmespath itself reports them only at evaluation."""
    if tree["type"] == "function_expression":
        name, given = tree["value"], len(tree["children"])
        known = Functions.FUNCTION_TABLE.get(name)
        if known is None:
            hint = did_you_mean(name, tuple(Functions.FUNCTION_TABLE))
            yield f"unknown function {name}()" + (f", {hint}" if hint else "")
        else:
            wanted = len(known["signature"])
            if given < wanted or (given > wanted and not known["signature"][-1].get("variadic")):
                yield f"{name}() takes {wanted} argument{'s' * (wanted != 1)}, not {given}"
    for child in tree["children"] if tree["type"] != "slice" else ():
        yield from _bad_calls(child)


def _roots(tree: Mapping[str, Any]) -> Iterator[str]:
    """The fields that the expression reads at the root of the message."""
    match tree["type"]:
        case "field":
            yield tree["value"]
        case "subexpression" | "index_expression" | "pipe" | "projection" | "value_projection" | "filter_projection":
            yield from _roots(tree["children"][0])
        case "comparator" | "or_expression" | "and_expression" | "not_expression" | "flatten" | "function_expression":
            for child in tree["children"]:
                yield from _roots(child)


def _one_line(error: Exception) -> str:
    """The first line of a jmespath error; the other lines show the expression."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, JMESPathTypeError):  # its text holds the value, which may be large beyond measure
        wanted = " or ".join(error.expected_types)
        return f"{error.function_name}() does not accept {error.actual_type}; it accepts {wanted}"
    first = (str(error).splitlines() or [type(error).__name__])[0]
    for noise in ("Bad jmespath expression: ", "Invalid jmespath expression: ", "Invalid JMESPath expression: "):
        first = first.removeprefix(noise)
    return first.removesuffix(":").removesuffix(", for expression")
