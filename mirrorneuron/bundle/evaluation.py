"""Evaluate JMESPath within a budget of steps, so that an expression of a bundle cannot hold up a worker.

A step is about a microsecond and at most some hundred bytes: a part of the expression that is evaluated once, an
element that is copied, or `STRING_STEP` characters that are compared or copied. Work is counted before it is done, so
both time and memory are bounded, and the same expression on the same message always takes the same number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from jmespath.functions import Functions
from jmespath.visitor import Options, TreeInterpreter

MAX_STEPS: Final = 1_000_000  #: of all conditions for one message; about a second
STRING_STEP: Final = 64  #: characters
SORT_DEPTH: Final = 20  #: comparisons of one element while a list is sorted; log2 of MAX_STEPS

_EQUALITY: Final = ("eq", "ne")
_LARGE: Final = (str, list, dict)  # a value of another type is compared in one step
_CONSTANT: Final = frozenset({"abs", "ceil", "floor", "length", "not_null", "to_array", "type"})  # of any argument
_DEEP: Final = frozenset({"contains", "to_string"})  # they look into nested values


class TooManySteps(ValueError):
    """The budget of steps is used up."""


class Meter(TreeInterpreter):
    """jmespath's interpreter with a budget. *spent* counts all steps so far."""

    def __init__(self) -> None:
        super().__init__(Options(custom_functions=_Functions(self)))
        self.spent = 0
        self._methods: dict[str, Callable[..., Any]] = {}
        self.renew()

    def renew(self) -> None:
        """Begin a new budget of MAX_STEPS, which all evaluations until the next call share."""
        self._limit = self.spent + MAX_STEPS

    def evaluate(self, tree: Any, value: Any) -> Any:
        """The value of a parsed expression for *value*. Raises TooManySteps, or an exception of jmespath."""
        return self.visit(tree, value)

    def spend(self, steps: int) -> None:
        """Count *steps* that are about to be done. Raises TooManySteps."""
        if self.spent + steps > self._limit:
            raise TooManySteps(f"the evaluation takes more than {MAX_STEPS} steps; simplify it")
        self.spent += steps

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self.spent += 1
        if self.spent > self._limit:
            self.spend(0)
        kind = node["type"]
        method = self._methods.get(kind)  # as jmespath's own `visit`, without its frame: depth is limited
        if method is None:
            method = self._methods[kind] = getattr(self, f"visit_{kind}", self.default_visit)
        return method(node, *args, **kwargs)

    def visit_comparator(self, node: Any, value: Any) -> Any:
        left, right = node["children"]
        left, right, name = self.visit(left, value), self.visit(right, value), node["value"]
        if isinstance(left, _LARGE):
            self._spend_comparison(left, right)
        if name not in _EQUALITY and not (_is_ordered(left) and _is_ordered(right)):
            return None
        return self.COMPARATOR_FUNC[name](left, right)

    def _spend_comparison(self, left: Any, right: Any) -> None:
        """Count the pairs of values that a comparison of *left* and *right* may look at."""
        match left, right:
            case str(), str():
                self.spend(min(len(left), len(right)) // STRING_STEP)
            case list(), list() if len(left) == len(right):
                self.spend(len(left))
                for one, other in zip(left, right, strict=True):
                    if one is not other:
                        self._spend_comparison(one, other)
            case dict(), dict() if len(left) == len(right):
                self.spend(len(left))
                for key, one in left.items():
                    if key in right and one is not right[key]:
                        self._spend_comparison(one, right[key])

    def visit_flatten(self, node: Any, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        if isinstance(base, list):
            self.spend(sum(len(item) if isinstance(item, list) else 1 for item in base))
        known: Any = dict(node, children=[_literal(base)])
        return super().visit_flatten(known, value)

    def visit_slice(self, node: Any, value: Any) -> Any:
        if isinstance(value, list):
            self.spend(len(value))
        return super().visit_slice(node, value)


def _is_ordered(value: Any) -> bool:
    """JMESPath orders numbers, and jmespath strings too."""
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _literal(value: Any) -> Any:
    """A part of an expression whose value is known already."""
    return {"type": "literal", "value": value, "children": []}


class _Functions(Functions):
    """jmespath's functions, which count their arguments before they look at them."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def call_function(self, function_name: str, resolved_args: Iterable[Any]) -> Any:
        if function_name not in _CONSTANT:
            times = SORT_DEPTH if function_name.startswith("sort") else 1
            for argument in resolved_args:
                self._spend(argument, times, deep=function_name in _DEEP)
        return super().call_function(function_name, resolved_args)

    def _spend(self, value: Any, times: int, *, deep: bool) -> None:
        """Count the characters and elements of *value*; the elements' own elements too if *deep*."""
        match value:
            case str():
                self._meter.spend(len(value) * times // STRING_STEP)
            case list() | dict():
                self._meter.spend(len(value) * times)
                for item in value.values() if isinstance(value, dict) else value:
                    if deep or isinstance(item, str):
                        self._spend(item, times, deep=deep)

    def _create_key_func(self, expref: Any, allowed_types: Sequence[str], function_name: str) -> Any:
        """The function that gives an element's key; keys are compared, so they are counted as well."""
        key_of = super()._create_key_func(expref, allowed_types, function_name)  # type: ignore[misc]  # missing in the stubs

        def counted(element: Any) -> Any:
            key = key_of(element)
            self._spend(key, SORT_DEPTH, deep=False)
            return key

        return counted
