"""The reference pages say what the code says today."""

from __future__ import annotations

import pytest

from docs.generate import DOCS, PAGES, page


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_not_stale(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == page(name), "run `make docs-reference`"


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_begins_with_its_one_title(name: str) -> None:
    lines = page(name).splitlines()
    assert [line for line in lines if line.startswith("# ")] == lines[:1]
