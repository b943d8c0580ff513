"""What a terminal is shown: tables, fields, results, live pictures. Imported only for one: no script waits for rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

STYLES: Final = {  # of a status, wherever one is shown
    "completed": "green",
    "failed": "bold red",
    "error": "bold red",
    "cancelled": "yellow",
    "paused": "yellow",
    "running": "cyan",
    "busy": "cyan",
    "queued": "blue",
}
LONGEST: Final = 40  # lines of a result
PER_SECOND: Final = 8  # looks at what is drawn again and again

console = Console(markup=False, highlight=False, emoji=False)  # nothing in a text is taken for mark-up


def styled(text: str) -> Text:
    """*text*, coloured if it is a status."""
    return Text(text, STYLES.get(text, ""), overflow="fold")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    made = Table(*columns, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for row in rows:
        made.add_row(*map(styled, row))
    console.print(made)


def fields(values: Mapping[str, str]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in values.items():
        grid.add_row(Text(name, "dim"), styled(value))
    console.print(grid)


def json(lines: Sequence[str], more: str) -> None:
    """Print JSON; a long one is cut, and *more* says where the rest is."""
    shown = Text("\n".join(lines[:LONGEST]))
    JSONHighlighter().highlight(shown)
    console.print(shown, soft_wrap=True)
    if len(lines) > LONGEST:
        console.print(f"... {len(lines) - LONGEST} more lines: {more}", style="dim")


def picture() -> Table:
    """A grid of names and values, for what is drawn again and again: what is too long is cut."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    return grid


def bar(done: int, total: int, said: str) -> Table:
    """How far it is, as a bar and in words."""
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=max(total, 1), completed=min(done, total), width=24), said)
    return row
