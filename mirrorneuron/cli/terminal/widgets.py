"""Tables, fields, results and live views for a terminal. Imported for a terminal only: rich is slow to import."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mirrorneuron.job import ms_of
from mirrorneuron.text import span

STYLES: Final = {  # status or level of a finding -> style, in every table
    "completed": "green",
    "failed": "bold red",
    "error": "bold red",
    "cancelled": "yellow",
    "paused": "yellow",
    "running": "cyan",
    "busy": "cyan",
    "queued": "blue",
    "ok": "green",
    "warning": "yellow",
}
RESULT_LINES: Final = 40  # lines of a result that are shown
GAP: Final = 2  # between columns
LAST_COLUMN: Final = 12  # smallest width of a folded last column
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PER_SECOND: Final = 8  # redraws of a live view

console = Console(markup=False, highlight=False, emoji=False)  # text is never interpreted as mark-up


def styled(text: str) -> Text:
    """Return *text*, coloured if it is a status."""
    return Text(text, STYLES.get(text, ""), overflow="fold")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = ()) -> None:
    """Print a table, see `tabled`."""
    console.print(tabled(columns, rows, spare))


def tabled(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = ()) -> Table:
    """Return a table whose last column is folded. A terminal too narrow drops columns of *spare* in turn."""
    now_ms = time.time_ns() // 1_000_000
    cells = [[_ago(cell, now_ms) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    kept = list(range(len(columns)))
    for name in spare:
        if _fits([widths[index] for index in kept]):
            break
        kept.remove(columns.index(name))
    whole = _fits([widths[index] for index in kept])
    made = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, GAP - 1, 0, 0), pad_edge=False)
    for index in kept:
        made.add_column(columns[index], no_wrap=whole and index != kept[-1], overflow="fold")
    for row in cells:
        made.add_row(*(styled(row[index]) for index in kept))
    return made


def _fits(widths: Sequence[int]) -> bool:
    """Return True if all columns fit when the last one is folded."""
    return sum(widths[:-1]) + GAP * len(widths) + min(widths[-1], LAST_COLUMN) <= console.width


def _ago(cell: str, now_ms: int) -> str:
    """Return *cell*; for a time of the API, how long ago it was."""
    if not TIME.fullmatch(cell):
        return cell
    return f"{span(now_ms - ms_of(cell), units=1)} ago"


def fields(values: Mapping[str, str]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in values.items():
        grid.add_row(Text(name, "dim"), styled(value))
    console.print(grid)


def json(lines: Sequence[str], more: str) -> None:
    """Print JSON, at most RESULT_LINES lines; *more* is the command that shows the rest."""
    shown = Text("\n".join(lines[:RESULT_LINES]))
    JSONHighlighter().highlight(shown)
    console.print(shown, soft_wrap=True)
    if len(lines) > RESULT_LINES:
        console.print(f"... {len(lines) - RESULT_LINES} more lines: {more}", style="dim")


def grid_of_fields() -> Table:
    """Return a grid of names and values for live views; a value that is too long is cut."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    return grid


def bar(done: int, total: int, text: str) -> Table:
    """Return a progress bar followed by *text*."""
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=max(total, 1), completed=min(done, total), width=24), text)
    return row
