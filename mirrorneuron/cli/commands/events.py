"""`mn events`: the events of a job so far, or as they occur."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from mirrorneuron.api import arguments
from mirrorneuron.api.client import Client
from mirrorneuron.cli import output, target
from mirrorneuron.cli.exits import Code, complain
from mirrorneuron.cli.options import JobId, Json
from mirrorneuron.job import Event
from mirrorneuron.text import printable

LIMIT_MAX = 10**9  # well below the largest integer that the store accepts


def _event_id(text: str | None) -> str | None:
    try:
        arguments.event_id(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


After = Annotated[
    str | None,
    typer.Option(
        "--after", metavar="ID", callback=_event_id, help="Show only the events after the event with this id."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        max=LIMIT_MAX,
        help="Show the newest N events; with --after, the first N after it.",
    ),
]


def events(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new events until the job ends.")] = False,
    after: After = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Show the events of a job.

    With --follow and --json each event is one JSON document on one line.

    Exit codes: 0 shown; 3 no such job; 130 Ctrl-C: the job continues.
    """
    client = target.client()
    if not follow:
        found = client.events(job, after=after, limit=limit)
        output.document(found) if json else _show(found)
        return
    try:
        for event in _newest_then_followed(client, job, after, limit):
            output.record(event) if json else output.line(line(event))
    except KeyboardInterrupt:
        complain(f"the job continues: mn events {job} --follow")
        raise typer.Exit(Code.INTERRUPTED) from None


def _newest_then_followed(client: Client, job: str, after: str | None, limit: int | None) -> Iterator[Event]:
    """Yield the newest *limit* events, if *limit* is given without *after*, then each new event until the job ends."""
    if limit is not None and after is None and (newest := client.events(job, limit=limit)):
        yield from newest
        after = newest[-1]["id"]
    yield from client.stream_events(job, after=after)


def _show(found: list[Event]) -> None:
    for event in found:
        output.line(line(event))


def line(event: Event) -> str:
    """Return an event as one line of text."""
    payload = output.compact(event["payload"]) if event.get("payload") is not None else ""
    agent = printable(event.get("agent_id", "-"))
    kind = printable(event["type"])
    return f"{event['timestamp']}  {event['id']}  {kind:<24}  {agent:<16}  {payload}".rstrip()
