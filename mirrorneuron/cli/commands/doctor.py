"""`mn doctor`: check that the runtime can run jobs and keep them."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from mirrorneuron.api.resources import Resources
from mirrorneuron.cli import output, target
from mirrorneuron.cli.exits import Code
from mirrorneuron.cli.options import Json
from mirrorneuron.diagnostics.checkup import Finding, Level, RuntimeStatus, findings, worst
from mirrorneuron.errors import RuntimeUnavailable

COLUMNS = ("level", "check", "finding")


def doctor(json: Json = False) -> None:
    """Check the store, the broker and the nodes, and report problems.

    Exit codes: 0 jobs can run, possibly with warnings; 5 an error prevents jobs from running.
    """
    found = findings(_status())
    if json:
        output.document({"level": worst(found), "findings": found})
    else:
        output.table(COLUMNS, (row for each in found for row in _rows(each)))
    if worst(found) is Level.ERROR:
        raise typer.Exit(Code.UNREACHABLE)


def _status() -> RuntimeStatus:
    try:
        settings = target.find().settings
    except RuntimeUnavailable as error:  # there is none to look at
        return RuntimeStatus(error=error.message, error_hint=error.hint)
    return Resources(settings).runtime_status()


def _rows(found: Finding) -> Iterator[tuple[str, str, str]]:
    yield found["level"], found["check"], found["message"]
    if found["hint"]:
        yield " ", " ", found["hint"]
