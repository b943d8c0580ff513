"""`mn why`: why a job makes no progress, since when, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import typer

from mirrorneuron.cli import output, target
from mirrorneuron.cli.exits import Code
from mirrorneuron.cli.options import JobId, Json
from mirrorneuron.diagnostics.job_diagnosis import Cause, Diagnosis, store_away
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.text import printable, span

UNREACHABLE: Final = frozenset({Cause.STORE_AWAY, Cause.BROKER_AWAY})


def why(job: JobId, json: Json = False) -> None:
    """Explain why a job makes no progress, and what to do.

    Exit codes: 0 the cause is shown; 3 no such job; 5 the cause is an unreachable store or broker.
    """
    try:
        found = target.client().why(job)
    except RuntimeUnavailable as error:  # there is none to ask
        found = store_away(job, error)
    if json:
        output.document(found)
    else:
        output.line(printable(f"{found['message']}{_since(found)}"))
        output.line(printable(found["hint"]))
    if found["cause"] in UNREACHABLE:
        raise typer.Exit(Code.UNREACHABLE)


def _since(found: Diagnosis) -> str:
    if found["since"] is None:
        return ""
    age = datetime.now(UTC) - datetime.fromisoformat(found["since"])
    return f" (since {found['since']}, {span(round(age.total_seconds() * 1000))} ago)"
