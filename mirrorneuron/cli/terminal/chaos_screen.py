"""The live view of a crash test on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table
from rich.text import Text

from mirrorneuron.chaos.driver import Progress
from mirrorneuron.cli.terminal.widgets import PER_SECOND, bar, console, grid_of_fields
from mirrorneuron.text import printable


class Screen:
    """Redraws the view several times a second, in the thread that calls `look`: a crash test has no other thread."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._drawn_s = 0.0

    def note(self, _text: str, /) -> None:
        self._drawn_s = 0.0  # the next `look` redraws

    def look(self, progress: Progress) -> None:
        if time.monotonic() - self._drawn_s >= 1 / PER_SECOND:
            self._drawn_s = time.monotonic()
            self._live.update(view(progress), refresh=True)


@contextmanager
def screen() -> Iterator[Screen]:
    """Show a screen; its last view stays on the terminal."""
    with Live(console=console, auto_refresh=False) as live:
        yield Screen(live)


def view(progress: Progress) -> Table:
    """Return the view of *progress*."""
    planned = progress.schedule
    grid = grid_of_fields()
    phase = Text("recovery", "green") if progress.peace else Text("kills", "bold red")
    grid.add_row("seed", str(planned.seed))
    grid.add_row("phase", Text.assemble(phase, f"  {progress.elapsed_s:.0f} s"))
    counts = f"{progress.ended}/{progress.jobs} ended, {progress.submitted} submitted"
    grid.add_row("jobs", bar(progress.ended, progress.jobs, counts))
    kills = ", ".join(f"{count} {kind}" for kind, count in sorted(progress.kills.items()))
    grid.add_row("kills", f"{progress.kills.total()} of {len(planned.strikes)}" + (f" ({kills})" if kills else ""))
    grid.add_row("last", Text(printable(progress.last or "-")))
    return grid
