"""The monitor on a terminal: a full screen, redrawn at each refresh."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from mirrorneuron.cli import output
from mirrorneuron.cli.output import Section, Sections
from mirrorneuron.cli.terminal.widgets import console, tabled
from mirrorneuron.text import printable

TABLE: Final = 4  # lines of a table in addition to its rows


def show(snapshots: Iterable[tuple[Sections, str]]) -> None:
    """Draw each snapshot, with the error text that says why it is out of date. The last one stays on the terminal."""
    last: RenderableType = ""
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for sections, error in snapshots:
                last = view(sections, error, console.height)
                live.update(last, refresh=True)
    finally:
        console.print(last)


def view(sections: Sections, error: str, height: int) -> Group:
    """Return one snapshot, cut to *height* lines."""
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
    if error:
        shown.append(Text(printable(error), "yellow", overflow="fold"))
    return Group(*shown)
