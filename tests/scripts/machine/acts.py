"""Acts: weighted rules of a state machine, because some rules make progress and others matter only sometimes.

Hypothesis gives all its rules the same weight and leaves many of them out of each run, so that half of the runs would
never commit anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

Method = Callable[..., Any]
Condition = Callable[[Any], bool]


@dataclass(frozen=True)
class Act:
    """A rule that is chosen *weight* times as often as an act of weight 1, while *when* holds."""

    method: Method
    weight: int
    when: Condition
    arguments: dict[str, st.SearchStrategy[Any]]


def act(
    weight: int, when: Condition = lambda _: True, **arguments: st.SearchStrategy[Any]
) -> Callable[[Method], Method]:
    """Make a method of a machine an act. Hypothesis draws its *arguments*."""

    def mark(method: Method) -> Method:
        method.act = Act(method, weight, when, arguments)  # type: ignore[attr-defined]
        return method

    return mark


class Actor(RuleBasedStateMachine):
    """A state machine with a single rule: do one of its acts."""

    acts: dict[str, Act]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        found = {name: getattr(getattr(cls, name), "act", None) for name in sorted(dir(cls))}
        cls.acts = {name: one for name, one in found.items() if isinstance(one, Act)}

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        possible = tuple((name, one.weight) for name, one in self.acts.items() if one.when(self))
        one = self.acts[data.draw(_weighted(possible), label="act")]
        one.method(self, **{name: data.draw(values, label=name) for name, values in one.arguments.items()})


@lru_cache
def _weighted(names: tuple[tuple[str, int], ...]) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name, weight in names for _ in range(weight)])
