"""`mn monitor`: show the nodes and jobs, or one job and its agents, and refresh the view."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Annotated, Final

import typer

from mirrorneuron import embedded
from mirrorneuron.api.client import Client
from mirrorneuron.cli import output, target
from mirrorneuron.cli.commands.monitor_sections import of_cluster, of_job
from mirrorneuron.cli.options import Json, utf8
from mirrorneuron.cli.output import Section, Sections
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.job import TERMINAL, ClusterOverview, JobDetails, JobStatus
from mirrorneuron.limits import LONGEST_WAIT_S

EVENTS: Final = 10  # the newest events of a job
QUERY_SHARE: Final = 0.2  # largest share of the time spent on queries: with many jobs a query is slow

Job = Annotated[
    str | None, typer.Argument(metavar="JOB", help="Watch this job, until it ends.", show_default=False, callback=utf8)
]
Interval = Annotated[float, typer.Option("--interval", metavar="S", min=0.1, help="Seconds between two refreshes.")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Show the newest N jobs.")]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The result of one query."""

    view: ClusterOverview | JobDetails
    sections: Callable[[], Sections]  #: makes the lines and tables to show
    final: bool = False  #: the job has ended: nothing will change
    error: str = ""  #: why the view is out of date; "" if it is not


def monitor(job: Job = None, interval: Interval = 1.0, limit: Limit = 20, json: Json = False) -> None:
    """Watch the nodes and jobs, or one job, until Ctrl-C.

    With --json each refresh is one JSON document on one line. Without --json a pipe or file gets one snapshot only.

    Exit codes: 0 ended by Ctrl-C, or the job has ended; 3 no such job; 5 no runtime.
    """
    place = target.find()
    client = place.client()
    snapshots = _snapshots(lambda: _of_job(client, job) if job else _of_cluster(client, limit), interval)
    if place.embedded:
        embedded.hold()
    try:
        if json:
            for snapshot in snapshots:
                output.record({**snapshot.view, "away": snapshot.error or None})
        elif output.on_terminal():
            import_module("mirrorneuron.cli.terminal.monitor_screen").show(
                (snapshot.sections(), snapshot.error) for snapshot in snapshots
            )
        else:
            _print(next(snapshots).sections())
    except KeyboardInterrupt:  # the normal way to end the command
        pass


def _of_cluster(client: Client, limit: int) -> Snapshot:
    view = client.cluster_overview(limit=limit)
    return Snapshot(view, partial(of_cluster, view))


def _of_job(client: Client, job_id: str) -> Snapshot:
    view = client.job_details(job_id, event_limit=EVENTS)
    return Snapshot(view, partial(of_job, view), final=JobStatus(view["job"]["status"]) in TERMINAL)


def _snapshots(query: Callable[[], Snapshot], interval_s: float) -> Iterator[Snapshot]:
    """Yield snapshots until a final one. While the store is unreachable, yield the last one with an error.

    Raises RuntimeUnavailable if the store is unreachable at the first query.
    """
    last: Snapshot | None = None
    while last is None or not last.final:
        began = time.monotonic()
        try:
            last = query()
        except RuntimeUnavailable as error:
            if last is None:
                raise
            last = replace(last, error=str(error))
        yield last
        if not last.final:
            time.sleep(min(LONGEST_WAIT_S, max(interval_s, (time.monotonic() - began) / QUERY_SHARE)))


def _print(sections: Sections) -> None:
    for section in sections:
        if isinstance(section, Section):
            output.line("")
            output.table(section.columns, section.rows)
        else:
            output.line(section)
