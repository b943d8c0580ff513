"""A row says whether its goals were met, and never calls a goal met that was not measured."""

from __future__ import annotations

import json

import pytest

from benchmarks.row import ABSENT, MET, MISSED, Row, at_least, at_most, lines, missed, number


def row(ours: float, theirs: float | None) -> Row:
    goals = (at_most(0.5, "Peer"), at_least(2, "Peer"), at_most(10))
    return Row("chain", "ms", {"MirrorNeuron": ours, "Peer": theirs}, goals)


def test_a_goal_bounds_a_ratio_to_another_side_or_the_figure_itself() -> None:
    goals = row(4, 8).json()["goals"]
    assert [(goal["value"], goal["verdict"]) for goal in goals] == [(0.5, MET), (0.5, MISSED), (4, MET)]


def test_a_goal_beside_a_peer_that_is_not_installed_is_neither_met_nor_missed() -> None:
    found = row(4, None).json()
    assert [goal["verdict"] for goal in found["goals"]] == [ABSENT, ABSENT, MET]
    assert missed([found]) == 0
    assert ABSENT in "\n".join(lines(found))


def test_missed_goals_are_counted() -> None:
    assert missed([row(40, 8).json(), row(4, 8).json()]) == 3


def test_a_row_survives_json() -> None:
    found = row(4, 8).json()
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("value", "text"), [(0.00412, "0.00412"), (1.0, "1"), (12.34, "12.3"), (1234.5, "1,234"), (None, ABSENT)]
)
def test_a_figure_has_three_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text
