"""`mn job cleanup`: delete the records of jobs."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final

import typer

from mirrorneuron.cli import output, prompts, target
from mirrorneuron.cli.options import Json
from mirrorneuron.text import count

UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def age(text: str) -> timedelta:
    """Read `7d`, `12h`, `30m` or `10s`. Raises BadParameter."""
    found = re.fullmatch("([0-9]{1,9})([dhms])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no age: write 7d, 12h, 30m or 10s")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than", metavar="AGE", parser=age, help="Only those last changed longer ago: 7d, 12h, 30m or 10s."
    ),
]
All = Annotated[bool, typer.Option("--all", help="Live jobs too: they are cancelled first.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --all.")]


def cleanup(all: All = False, older_than: OlderThan = None, yes: Yes = False, json: Json = False) -> None:
    """Delete jobs that have ended.

    With --all live jobs are deleted too; that is asked for on a terminal, and needs --yes elsewhere.

    Exit codes: 0 deleted, or not agreed to; 2 --all needs --yes.
    """
    if all and not yes and not prompts.possible(json=json):
        raise typer.BadParameter("it deletes live jobs: add --yes, as nobody can be asked here", param_hint="--all")
    client = target.client()
    if all and not yes and not prompts.agreed("delete live jobs too?"):
        output.line("nothing done")
        return
    deleted = client.cleanup_jobs(all=all, older_than=older_than)
    output.document({"deleted": deleted}) if json else output.line(f"deleted {count(len(deleted), 'job')}")
