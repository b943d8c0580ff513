"""The figures in the documents are those of benchmarks/results.json."""

from __future__ import annotations

import json

import pytest

from benchmarks import page
from benchmarks.row import MISSED

RESULTS = json.loads(page.RESULTS.read_text("utf-8"))


def test_the_page_is_not_stale() -> None:
    text = page.PAGE.read_text("utf-8")
    assert page.page(text, RESULTS) == text, "run `python -m benchmarks --from benchmarks/results.json --write-docs`"


def test_the_table_of_the_readme_is_not_stale() -> None:
    text = page.README.read_text("utf-8")
    assert page.readme(text, RESULTS) == text, "run `python -m benchmarks --from benchmarks/results.json --write-docs`"


def test_every_missed_goal_is_on_the_page() -> None:
    goals = [goal for found in RESULTS.values() for row in found["rows"] for goal in row["goals"]]
    text = page.page(page.MARK, RESULTS)
    assert text.count(f"| {MISSED} |") == sum(goal["verdict"] == MISSED for goal in goals)


def test_a_document_without_its_mark_is_an_error() -> None:
    with pytest.raises(ValueError, match="lacks the line"):
        page.page("# Benchmarks\n", RESULTS)
    with pytest.raises(ValueError, match="lacks the lines"):
        page.readme("# MirrorNeuron\n", RESULTS)
