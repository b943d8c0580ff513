"""`mn events`: what has happened in a job, or what happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from mirrorneuron.api import arguments
from mirrorneuron.api.client import Client
from mirrorneuron.cli import output, target
from mirrorneuron.cli.exits import Code, complain, printable
from mirrorneuron.cli.options import JobId, Json
from mirrorneuron.job import Event

MOST = 10**9  # what a server can count to


def _event_id(text: str | None) -> str | None:
    try:
        arguments.event_id(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


After = Annotated[
    str | None,
    typer.Option("--after", metavar="ID", callback=_event_id, help="Only events after the one of this id."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", min=1, max=MOST, help="The newest so many; with --after, the first so many after it."
    ),
]


def events(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    after: After = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Show what has happened in a job, or what happens.

    With --follow --json each event is one JSON document on a line of its own.
    """
    client = target.client()
    if not follow:
        found = client.events(job, after=after, limit=limit)
        output.document(found) if json else _show(found)
        return
    try:
        for event in _following(client, job, after, limit):
            output.record(event) if json else output.line(line(event))
    except KeyboardInterrupt:
        complain(f"job goes on: mn events {job} --follow")
        raise typer.Exit(Code.INTERRUPTED) from None


def _following(client: Client, job: str, after: str | None, limit: int | None) -> Iterator[Event]:
    """The newest *limit* events, if so many are asked for, and all that follow."""
    if limit is not None and after is None and (newest := client.events(job, limit=limit)):
        yield from newest
        after = newest[-1]["id"]
    yield from client.stream_events(job, after=after)


def _show(found: list[Event]) -> None:
    for event in found:
        output.line(line(event))


def line(event: Event) -> str:
    """An event in words."""
    payload = output.compact(event["payload"]) if event.get("payload") is not None else ""
    agent = printable(event.get("agent_id", "-"))
    kind = printable(event["type"])
    return f"{event['timestamp']}  {event['id']}  {kind:<24}  {agent:<16}  {payload}".rstrip()
