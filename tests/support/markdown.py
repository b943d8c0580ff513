"""The fenced code blocks of a Markdown page, and the comments that say how a test treats them.

A fence with `title="hello/manifest.json"` is a file of that name. A comment on the line before a fence may be
`<!-- not run: REASON -->` (the block is only parsed) or `<!-- output -->` (the output of the previous block).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<marks>`{3,})(?P<language>\w*)(?P<info>.*)$")
_TITLE: Final = re.compile(r'title="([^"]+)"')
_COMMENT: Final = re.compile(r"^ *<!-- *(?P<word>not run|output)(?::(?P<reason>.*?))? *-->$")
_ANY_MARKER: Final = re.compile(r"<!--\s*(?:not[ -]run|output|skip)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: str  #: the page's path, for error messages
    line: int  #: of the first line of its text, from 1
    language: str
    text: str
    title: str = ""  #: the file that the block is
    exempt: str | None = None  #: why the block is not run; None for a block that runs
    is_output: bool = False  #: the text that the block before it prints

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language or 'no language'})"


def blocks(page: Path, name: str) -> Iterator[Block]:
    """Yield the fenced blocks of *page*. Raises ValueError for a fence without an end or a marker without a fence."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened is None:
            _check_no_marker(lines, number, name)
            number += 1
            continue
        end = _end(lines, number, opened, name)
        yield _block(name, number, opened, lines[number - 1] if number else "", lines[number + 1 : end])
        number = end + 1


def _end(lines: list[str], start: int, opened: re.Match[str], name: str) -> int:
    for number in range(start + 1, len(lines)):
        if lines[number].strip() == opened["marks"]:
            return number
    raise ValueError(f"{name}:{start + 1}: the block has no end")


def _block(name: str, fence: int, opened: re.Match[str], before: str, body: list[str]) -> Block:
    comment = _COMMENT.match(before)
    title = _TITLE.search(opened["info"])
    indent = len(opened["indent"])
    exempt = None
    if comment and comment["word"] == "not run":
        exempt = (comment["reason"] or "").strip()
        if len(exempt.split()) < 2:
            raise ValueError(f"{name}:{fence}: `not run` needs a reason, as in <!-- not run: needs Django -->")
    return Block(
        page=name,
        line=fence + 2,
        language=opened["language"],
        text="".join(f"{line[indent:]}\n" for line in body),
        title=title[1] if title else "",
        exempt=exempt,
        is_output=bool(comment and comment["word"] == "output"),
    )


def _check_no_marker(lines: list[str], number: int, name: str) -> None:
    """Raise ValueError for a marker that is misspelt, or that does not stand directly before a fence."""
    if not _ANY_MARKER.search(lines[number]):
        return
    following = lines[number + 1] if number + 1 < len(lines) else ""
    if not _COMMENT.match(lines[number]) or not _FENCE.match(following):
        raise ValueError(f"{name}:{number + 1}: the marker is not directly before a block, or cannot be read")
