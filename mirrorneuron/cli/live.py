"""The live picture of a running job on a terminal."""

from __future__ import annotations

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mirrorneuron.cli.exits import printable
from mirrorneuron.cli.pretty import console, styled
from mirrorneuron.cli.progress import Progress

PER_SECOND = 8


def screen(progress: Progress) -> Live:
    """A picture of *progress* that is drawn again several times a second, and leaves its last state behind."""
    return Live(console=console, get_renderable=lambda: picture(progress), refresh_per_second=PER_SECOND)


def picture(progress: Progress) -> Table:
    """One look at *progress*."""
    done, busy, queued = len(progress.done), len(progress.busy), len(progress.queued)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    head = Text.assemble(styled(progress.status), f"  {progress.elapsed_s:.1f} s")
    grid.add_row("job", Text(progress.job_id))
    grid.add_row("status", head)
    counts = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(progress.total, 1), completed=min(done, progress.total), width=24)
    counts.add_row(bar, f"{done}/{progress.total} done, {busy} busy, {queued} queued")
    grid.add_row("agents", counts)
    grid.add_row("messages", f"{progress.messages} processed")
    grid.add_row("last", Text(_last(progress)))
    if progress.hint:
        grid.add_row("", Text(printable(progress.hint), "yellow", overflow="fold", no_wrap=False))
    return grid


def _last(progress: Progress) -> str:
    event = progress.last
    return printable(f"{event['type']} {event.get('agent_id', '')}".rstrip()) if event else "-"
