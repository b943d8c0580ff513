"""The live view of a running job on a terminal."""

from __future__ import annotations

from rich.live import Live
from rich.table import Table
from rich.text import Text

from mirrorneuron.cli.job_progress import Progress
from mirrorneuron.cli.terminal.widgets import PER_SECOND, bar, console, grid_of_fields, styled
from mirrorneuron.text import printable


def screen(progress: Progress) -> Live:
    """Return a live view of *progress*, redrawn several times a second; its last state stays on the terminal."""
    return Live(console=console, get_renderable=lambda: view(progress), refresh_per_second=PER_SECOND)


def view(progress: Progress) -> Table:
    """Return the view of *progress*."""
    done, busy, queued = len(progress.done), len(progress.busy), len(progress.queued)
    grid = grid_of_fields()
    head = Text.assemble(styled(progress.status), f"  {progress.elapsed_s:.1f} s")
    grid.add_row("job", Text(progress.job_id))
    grid.add_row("status", head)
    counts = f"{done}/{progress.total} done, {busy} busy, {queued} queued"
    grid.add_row("agents", bar(done, progress.total, counts))
    grid.add_row("messages", f"{progress.messages} processed")
    grid.add_row("last", Text(_last(progress)))
    if progress.hint:
        grid.add_row("", Text(printable(progress.hint), "yellow", overflow="fold", no_wrap=False))
    return grid


def _last(progress: Progress) -> str:
    event = progress.last
    return printable(f"{event['type']} {event.get('agent_id', '')}".rstrip()) if event else "-"
