"""`mn pause`, `mn resume`, `mn cancel` and `mn retry`. Each is idempotent."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorneuron.cli import output, prompts, target
from mirrorneuron.cli.options import JobId, Json, utf8
from mirrorneuron.job import JobMap

ChosenJob = Annotated[
    str | None,
    typer.Argument(metavar="JOB", help="The job's id; a terminal offers a choice.", show_default=False, callback=utf8),
]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", callback=utf8, help="The reason, kept in the job's result.")
]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="AGENT", callback=utf8, help="Rerun this agent with its last input, and all agents after it."
    ),
]


def pause(job: JobId, json: Json = False) -> None:
    """Pause a job: its agents take no new messages.

    Current runs finish; new messages wait in the mailboxes.

    Exit codes: 0 paused; 2 the job is pending or has ended; 3 no such job.
    """
    _show(target.client().pause(job), json=json)


def resume(job: JobId, json: Json = False) -> None:
    """Resume a paused job.

    Exit codes: 0 running; 2 the job is pending or has ended; 3 no such job.
    """
    _show(target.client().resume(job), json=json)


def cancel(job: ChosenJob = None, reason: Reason = None, json: Json = False) -> None:
    """Cancel a job and kill its running commands.

    Without an id, a terminal lists the live jobs to choose from. `mn retry` continues a cancelled job.

    Exit codes: 0 cancelled, or no job chosen; 2 the job is completed or failed; 3 no such job.
    """
    if job is None and not prompts.possible(json=json):
        raise typer.BadParameter("no job id given (without --json, a terminal offers a choice)", param_hint="JOB")
    client = target.client()
    chosen = job if job is not None else prompts.choose_live_job(client, "cancel")
    if chosen is not None:
        _show(client.cancel(chosen, reason=reason), json=json)


def retry(job: JobId, from_: From = None, json: Json = False) -> None:
    """Retry a failed or cancelled job.

    The job continues where it stopped and keeps finished work; with --from it continues from that agent.

    Exit codes: 0 running; 2 the job is pending, paused or completed; 3 no such job or agent.
    """
    _show(target.client().retry(job, from_agent=from_), json=json)


def _show(job: JobMap, *, json: bool) -> None:
    if json:
        output.document(job)
    else:
        output.line(f"job {job['job_id']} is {job['status']}")
