"""`mn monitor`: the nodes and jobs, or one job and its agents, as they are now and go on to be."""

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

EVENTS: Final = 10  # the newest of a job
BUSY: Final = 0.2  # of the time, at most, is spent on looking: with many kept jobs a look takes its time

Job = Annotated[
    str | None, typer.Argument(metavar="JOB", help="One job, until it has ended.", show_default=False, callback=utf8)
]
Interval = Annotated[float, typer.Option("--interval", metavar="S", min=0.1, help="Seconds between two looks.")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Show the newest so many jobs.")]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found."""

    view: ClusterOverview | JobDetails
    sections: Callable[[], Sections]  #: what of it is shown
    over: bool = False  #: nothing will change any more
    away: str = ""  #: why this is not how things are now, if that is so


def monitor(job: Job = None, interval: Interval = 1.0, limit: Limit = 20, json: Json = False) -> None:
    """Watch the nodes and jobs, or one job, until Ctrl-C.

    With --json each look is one JSON document on a line of its own. Into a pipe or a file, the first look alone.
    """
    place = target.find()
    client = place.client()
    looks = _looks(lambda: _of_job(client, job) if job else _of_cluster(client, limit), interval)
    if place.embedded:
        embedded.hold()
    try:
        if json:
            for look in looks:
                output.record({**look.view, "away": look.away or None})
        elif output.on_terminal():
            import_module("mirrorneuron.cli.terminal.monitor_screen").show(
                (look.sections(), look.away) for look in looks
            )
        else:
            _plain(next(looks).sections())
    except KeyboardInterrupt:  # the way to end it
        pass


def _of_cluster(client: Client, limit: int) -> Look:
    view = client.cluster_overview(limit=limit)
    return Look(view, partial(of_cluster, view))


def _of_job(client: Client, job_id: str) -> Look:
    view = client.job_details(job_id, event_limit=EVENTS)
    return Look(view, partial(of_job, view), over=JobStatus(view["job"]["status"]) in TERMINAL)


def _looks(look: Callable[[], Look], interval_s: float) -> Iterator[Look]:
    """Look again and again, through times in which the store does not answer, until nothing changes any more."""
    last: Look | None = None
    while last is None or not last.over:
        began = time.monotonic()
        try:
            last = look()
        except RuntimeUnavailable as error:
            if last is None:
                raise
            last = replace(last, away=str(error))
        yield last
        if not last.over:
            time.sleep(max(interval_s, (time.monotonic() - began) / BUSY))


def _plain(sections: Sections) -> None:
    for section in sections:
        if isinstance(section, Section):
            output.line("")
            output.table(section.columns, section.rows)
        else:
            output.line(section)
