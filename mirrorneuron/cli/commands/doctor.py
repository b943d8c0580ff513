"""`mn doctor`: check that the runtime can run jobs and keep them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from mirrorneuron.api.resources import Resources
from mirrorneuron.cli import output, target
from mirrorneuron.cli.exits import Code
from mirrorneuron.cli.options import Json
from mirrorneuron.diagnostics.checkup import findings, worst
from mirrorneuron.diagnostics.finding import Finding, Level, RuntimeStatus
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.store.rights import Role

COLUMNS = ("level", "check", "finding")


def doctor(
    role: Annotated[
        Role,
        typer.Option("--role", help="What the user of the server must be allowed to do: all that this role needs."),
    ] = Role.NODE,
    json: Json = False,
) -> None:
    """Check the store, the broker and the nodes, and report problems.

    It tries what a node needs of the server, as the user in MIRROR_NEURON_REDIS_URL. What the server does not tell is
    a warning.

    Exit codes: 0 jobs can run, possibly with warnings; 5 an error prevents jobs from running.
    """
    found = findings(_status(role))
    if json:
        output.document({"level": worst(found), "findings": found})
    else:
        output.table(COLUMNS, (row for each in found for row in _rows(each)))
    if worst(found) is Level.ERROR:
        raise typer.Exit(Code.UNREACHABLE)


def _status(role: Role) -> RuntimeStatus:
    try:
        settings = target.find().settings
    except RuntimeUnavailable as error:  # there is none to look at
        return RuntimeStatus(error=error.message, error_hint=error.hint)
    return Resources(settings).runtime_status(role)


def _rows(found: Finding) -> Iterator[tuple[str, str, str]]:
    yield found["level"], found["check"], found["message"]
    if found["hint"]:
        yield " ", " ", found["hint"]
