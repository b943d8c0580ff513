"""The package table of docs/architecture.md: the rows of the layers test, each name with its purpose."""

from __future__ import annotations

import re

from tests.package.test_layers import LAYERS, ROOT

ROW = re.compile(r"^\| (\d+) \| (`[^|]+`) \| (.+) \|$", re.MULTILINE)


def test_the_package_table_has_the_rows_of_the_layers() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    documented: dict[int, set[str]] = {}
    for row, names, _ in ROW.findall(text):
        documented.setdefault(int(row), set()).update(re.findall(r"`([^`]+)`", names))
    layers = [set(row.split()) for row in LAYERS.split("\n") if row.split()]
    assert documented == dict(enumerate(layers, start=1))
