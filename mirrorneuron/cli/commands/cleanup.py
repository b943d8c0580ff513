"""`mn job cleanup`: delete jobs from the store."""

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
        raise typer.BadParameter(f"{text!r} is not a valid age: write 7d, 12h, 30m or 10s")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than", metavar="AGE", parser=age, help="Only jobs without a change for this long: 7d, 12h, 30m or 10s."
    ),
]
All = Annotated[bool, typer.Option("--all", help="Delete live jobs too; they are cancelled first.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation of --all.")]


def cleanup(all: All = False, older_than: OlderThan = None, yes: Yes = False, json: Json = False) -> None:
    """Delete ended jobs.

    With --all live jobs are deleted too. A terminal asks for confirmation; without a terminal --yes is required.

    Exit codes: 0 deleted, or not confirmed; 2 --all without a terminal and without --yes.
    """
    if all and not yes and not prompts.possible(json=json):
        raise typer.BadParameter("it deletes live jobs: add --yes to confirm without a terminal", param_hint="--all")
    client = target.client()
    if all and not yes and not prompts.agreed("delete live jobs too?"):
        output.line("nothing was deleted")
        return
    deleted = client.cleanup_jobs(all=all, older_than=older_than)
    output.document({"deleted": deleted}) if json else output.line(f"deleted {count(len(deleted), 'job')}")
