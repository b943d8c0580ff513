"""`mn job list` and `mn job inspect`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import JobId, Json, pairs
from mirrorneuron.job import JobMap, JobStatus, JobSummary

DEFAULT_LIMIT = 50
COLUMNS = ("job", "status", "submitted", "updated", "name")
SPARE = ("updated", "name")


def list_jobs(
    live: Annotated[bool, typer.Option("--live", help="Show only live jobs: those that have not ended.")] = False,
    status: Annotated[JobStatus | None, typer.Option("--status", help="Show only jobs with this status.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="Show at most N jobs; 0 shows all.")
    ] = DEFAULT_LIMIT,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="K=V", help="Show only jobs with this metadata. May be given several times."),
    ] = None,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    labels = pairs(where, "--where")
    jobs = target.client().list_jobs(limit=limit or None, include_terminal=not live, status=status, metadata=labels)
    if json:
        output.document(jobs)
        return
    output.table(COLUMNS, map(row, jobs), SPARE)


def row(job: JobSummary) -> tuple[str, ...]:
    """Return a job's row of the table."""
    return job["job_id"], job["status"], job["submitted_at"], job["updated_at"], job["job_name"]


def inspect(job: JobId, json: Json = False) -> None:
    """Show the job map of a job: its status, times and result."""
    found = target.client().inspect_job(job)
    if json:
        output.document(found)
        return
    output.fields(_fields(found))
    if found["result"] is not None:
        output.line("")
        output.result(found["result"], f"mn job inspect {job} --json")


def _fields(job: JobMap) -> dict[str, Any]:
    values: dict[str, Any] = dict(job)
    ref = values.pop("manifest_ref")
    del values["result"]
    values["root_agent_ids"] = ", ".join(job["root_agent_ids"])
    values["metadata"] = " ".join(f"{name}={value}" for name, value in job["metadata"].items())
    values["daemon"] = "yes" if job["daemon"] else "no"
    return {name.removesuffix("_ids"): value for name, value in values.items()} | {
        "bundle": ref["job_path"],
        "digest": ref["digest"],
    }
