"""What a terminal is shown: tables, fields, results, live pictures. Imported only for one: no script waits for rich."""

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

STYLES: Final = {  # of a status, wherever one is shown
    "completed": "green",
    "failed": "bold red",
    "error": "bold red",
    "cancelled": "yellow",
    "paused": "yellow",
    "running": "cyan",
    "busy": "cyan",
    "queued": "blue",
    "ok": "green",  # and of a finding
    "warning": "yellow",
}
LONGEST: Final = 40  # lines of a result
GAP: Final = 2  # between columns
LAST: Final = 12  # of a last column that is folded
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PER_SECOND: Final = 8  # looks at what is drawn again and again

console = Console(markup=False, highlight=False, emoji=False)  # nothing in a text is taken for mark-up


def styled(text: str) -> Text:
    """*text*, coloured if it is a status."""
    return Text(text, STYLES.get(text, ""), overflow="fold")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = ()) -> None:
    """Print a table, see `tabled`."""
    console.print(tabled(columns, rows, spare))


def tabled(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = ()) -> Table:
    """A table. Only its last column is folded; on a terminal too narrow for that it goes without *spare*, in turn."""
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
    """Is there room for all columns if the last one is folded?"""
    return sum(widths[:-1]) + GAP * len(widths) + min(widths[-1], LAST) <= console.width


def _ago(cell: str, now_ms: int) -> str:
    """*cell*, or how long ago it was if it is a time of the API."""
    if not TIME.fullmatch(cell):
        return cell
    return f"{span(now_ms - ms_of(cell), units=1)} ago"


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
