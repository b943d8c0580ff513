"""The reading tour of docs/architecture.md names files and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
STEPS = re.findall(r"^\| `((?:mirrorneuron|workers)/[\w/]+\.py)` \| `([\w.]+)` \|", PAGE, re.MULTILINE)


def test_the_tour_has_three_walks() -> None:
    assert PAGE.count("| file | function | what happens |") == 3
    assert len(STEPS) > 40


@pytest.mark.parametrize(("path", "name"), sorted(set(STEPS)))
def test_each_step_of_the_tour_exists(path: str, name: str) -> None:
    scope: ast.AST = ast.parse((ROOT / path).read_text("utf-8"))
    for part in name.split("."):
        found = [node for node in ast.iter_child_nodes(scope) if getattr(node, "name", None) == part]
        assert found, f"{path} has no {name}"
        scope = found[0]
