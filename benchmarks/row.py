"""A row: figures in one unit, side by side, and the goals for the first of them. Rows are JSON, or lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

MET: Final = "met"
MISSED: Final = "MISSED"
ABSENT: Final = "not installed"


@dataclass(frozen=True)
class Goal:
    """A bound for the first figure of a row, or for its ratio to the figure *of* another side."""

    bound: Literal["at most", "at least"]
    limit: float
    of: str = ""  #: the side that the figure is divided by; empty: the figure itself

    def value(self, figures: Mapping[str, float | None]) -> float | None:
        """What the bound is for. None: the other side is not installed."""
        ours = next(iter(figures.values()))
        if not self.of or ours is None:
            return ours
        theirs = figures[self.of]
        return None if theirs is None else ours / theirs

    def verdict(self, figures: Mapping[str, float | None]) -> str:
        value = self.value(figures)
        if value is None:
            return ABSENT
        return MET if (value <= self.limit if self.bound == "at most" else value >= self.limit) else MISSED


def at_most(limit: float, of: str = "") -> Goal:
    return Goal("at most", limit, of)


def at_least(limit: float, of: str = "") -> Goal:
    return Goal("at least", limit, of)


@dataclass(frozen=True)
class Row:
    """The measured values of all sides, in *unit*. The goals are checked for the first side."""

    name: str
    unit: str
    figures: Mapping[str, float | None]  #: side -> figure; None: the side is not installed
    goals: tuple[Goal, ...] = ()
    note: str = field(default="", kw_only=True)

    def json(self) -> dict[str, Any]:
        goals = [
            {
                "of": goal.of,
                "bound": goal.bound,
                "limit": goal.limit,
                "value": goal.value(self.figures),
                "verdict": goal.verdict(self.figures),
            }
            for goal in self.goals
        ]
        return {"name": self.name, "unit": self.unit, "figures": dict(self.figures), "goals": goals, "note": self.note}


def number(value: float | None) -> str:
    """Three significant digits, or what stands for a side that is not installed."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def target(goal: Mapping[str, Any]) -> str:
    """A goal of a row's JSON in words: `at most 0.25 of Huey`."""
    limit = f"{goal['limit']:,g}"
    if not goal["of"]:
        return f"{goal['bound']} {limit}"
    return f"{goal['bound']} {limit} of {goal['of']}" if goal["bound"] == "at most" else f"{limit} times {goal['of']}"


def lines(row: Mapping[str, Any]) -> Iterator[str]:
    """A row's JSON as lines for a terminal."""
    figures = "   ".join(f"{side} {number(value)}" for side, value in row["figures"].items())
    yield f"{row['name'] + ', ' + row['unit']:<46} {figures}"
    for goal in row["goals"]:
        yield f"{'':<46} {goal['verdict']}: {number(goal['value'])} (goal: {target(goal)})"


def missed(rows: Iterable[Mapping[str, Any]]) -> int:
    """The number of goals that were missed. A goal whose other side is not installed is neither met nor missed."""
    return sum(goal["verdict"] == MISSED for row in rows for goal in row["goals"])
