"""The monitor on a terminal: a whole screen that is drawn again at each look."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from mirrorneuron.cli import output
from mirrorneuron.cli.exits import printable
from mirrorneuron.cli.output import Section, Sections
from mirrorneuron.cli.terminal.widgets import console, tabled

TABLE: Final = 4  # lines of a table beside its rows


def show(looks: Iterable[tuple[Sections, str]]) -> None:
    """Draw each of *looks* (and why it is not of now, if that is so); leaves the last one behind."""
    last: RenderableType = ""
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for sections, away in looks:
                last = seen(sections, away, console.height)
                live.update(last, refresh=True)
    finally:
        console.print(last)


def seen(sections: Sections, away: str, height: int) -> Group:
    """One look, cut to so many lines."""
    room = height - 2 - sum(TABLE if isinstance(section, Section) else 1 for section in sections)
    shown: list[RenderableType] = []
    for section in sections:
        if isinstance(section, str):
            shown.append(Text(printable(section), no_wrap=True, overflow="ellipsis"))
            continue
        rows = section.rows[: max(1, room)]
        room -= len(rows)
        shown.append(tabled(section.columns, [output.texts(row) for row in rows], section.spare))
        if more := len(section.rows) - len(rows):
            shown.append(Text(f"... {more} more", "dim"))
    if away:
        shown.append(Text(printable(away), "yellow", overflow="fold"))
    return Group(*shown)
