"""`mn pause`, `mn resume`, `mn cancel` and `mn retry`: the operator's moves, each safe to repeat."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorneuron.cli import output, prompts, target
from mirrorneuron.cli.options import JobId, Json, utf8
from mirrorneuron.job import JobMap

ChosenJob = Annotated[
    str | None,
    typer.Argument(
        metavar="JOB", help="The job's id; on a terminal it may be chosen.", show_default=False, callback=utf8
    ),
]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", callback=utf8, help="Why; the job's result tells it.")
]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="AGENT", callback=utf8, help="Begin anew here, with its last input, and with all behind it."
    ),
]


def pause(job: JobId, json: Json = False) -> None:
    """Let no agent of a job take a new message.

    What runs finishes, and mail queues up. Exit codes: 0 paused; 2 the job has ended or not begun; 3 no such job.
    """
    _show(target.client().pause(job), json=json)


def resume(job: JobId, json: Json = False) -> None:
    """Go on with a paused job.

    Exit codes: 0 it goes on; 2 the job has ended or not begun; 3 no such job.
    """
    _show(target.client().resume(job), json=json)


def cancel(job: ChosenJob = None, reason: Reason = None, json: Json = False) -> None:
    """End a job and kill its running commands.

    Without an id, on a terminal, the live jobs are listed to choose from. `mn retry` goes on where the job stopped.

    Exit codes: 0 cancelled, or none chosen; 2 the job is completed or failed; 3 no such job.
    """
    if job is None and not prompts.possible(json=json):
        raise typer.BadParameter("name one: it can be chosen on a terminal only, and not with --json", param_hint="JOB")
    client = target.client()
    chosen = job if job is not None else prompts.choose_live_job(client, "cancel")
    if chosen is not None:
        _show(client.cancel(chosen, reason=reason), json=json)


def retry(job: JobId, from_: From = None, json: Json = False) -> None:
    """Go on with a failed or cancelled job.

    It goes on where it stopped, finished work kept, or with --from from that agent on.

    Exit codes: 0 it goes on; 2 the job is completed, paused or not begun; 3 no such job or agent.
    """
    _show(target.client().retry(job, from_agent=from_), json=json)


def _show(job: JobMap, *, json: bool) -> None:
    if json:
        output.document(job)
    else:
        output.line(f"job {job['job_id']} is {job['status']}")
