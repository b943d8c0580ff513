"""`mn run` and `mn wait`: submit a bundle, wait for a job, print its result."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from mirrorneuron.api import arguments
from mirrorneuron.bundle.load import validate_manifest
from mirrorneuron.bundle.plan import make_plan
from mirrorneuron.cli import output, target
from mirrorneuron.cli.commands.validate import warn
from mirrorneuron.cli.exits import code_of_job, complain
from mirrorneuron.cli.job_watch import Advice, until_end
from mirrorneuron.cli.options import Folder, JobId, Json, TimeoutMs
from mirrorneuron.cli.target import Place, plan_of
from mirrorneuron.embedded import home
from mirrorneuron.job import TERMINAL, JobMap, JobStatus

START_A_NODE: Final = Advice("start one with `mn worker`")
NODE_STARTS_S: Final = 20.0  #: a node that was started just now may take this long


def run(
    folder: Folder,
    json: Json = False,
    timeout: TimeoutMs = None,
    await_: Annotated[
        bool, typer.Option("--await/--no-await", help="Wait for the end, or print the job's id and leave.")
    ] = True,
    job_id: Annotated[
        str | None,
        typer.Option("--job-id", metavar="ID", help="The job's id; the same id and bundle are the same job."),
    ] = None,
) -> None:
    """Submit a bundle, show its progress and print its result.

    With no server configured and none answering, an embedded one and a node are started. They end after 10 idle
    minutes or with `mn down`. Ctrl-C detaches: the job goes on. With --json the job's record is printed.

    Exit codes: 0 completed; 1 failed or cancelled; 2 invalid bundle; 4 timed out; 5 no runtime.
    """
    if timeout is not None and not await_:
        raise typer.BadParameter("--timeout is how long to wait, and --no-await does not")
    arguments.new_job_id(job_id)  # before anything is started
    bundle = validate_manifest(folder)
    warn(bundle)
    place = target.find_or_start()
    new_node = place.embedded and target.ensure_node(place)
    client = place.client()
    started = client.run_manifest(job_bundle=bundle, job_id=job_id)
    if await_ and (json or not output.on_terminal()):
        complain(f"job {started}")
    _tell(place, new_node)
    if not await_:
        output.document({"job_id": started}) if json else output.line(started)
        return
    advice = Advice(f"see {home() / 'node.log'}", NODE_STARTS_S) if new_node else START_A_NODE
    plan = make_plan(bundle.manifest)
    _finish(until_end(client, started, plan, timeout, json=json, advice=advice), json=json)


def wait(job: JobId, timeout: TimeoutMs = None, json: Json = False) -> None:
    """Wait for the end of a job and print its result.

    Exit codes: 0 completed; 1 failed or cancelled; 3 no such job; 4 timed out; 5 no runtime.
    """
    client = target.client()
    found = client.inspect_job(job)
    if found["status"] not in TERMINAL:
        found = until_end(client, job, plan_of(client, job), timeout, json=json, advice=START_A_NODE)
    _finish(found, json=json)


def _tell(place: Place, new_node: bool) -> None:
    """Say what was started besides the job."""
    started = [name for name, new in (("a server", place.started), ("a node", new_node)) if new]
    if started:
        complain(f"started {' and '.join(started)} here; `mn down` or 10 idle minutes end them")


def _finish(ended: JobMap, *, json: bool) -> None:
    if json:
        output.document(ended)
    else:
        _show(ended)
    raise typer.Exit(code_of_job(ended))


def _show(job: JobMap) -> None:
    job_id, result = job["job_id"], job["result"] or {}
    if output.on_terminal():
        output.line("")
    output.result(result, f"mn job inspect {job_id}")
    if job["status"] == JobStatus.FAILED:
        where = f"{result['agent_id']}: " if result.get("agent_id") else ""
        complain(f"job {job_id} failed: {where}{result.get('error')}")
    elif job["status"] == JobStatus.CANCELLED:
        complain(f"job {job_id} was cancelled: {result.get('reason') or 'no reason given'}")
    if output.on_terminal():
        output.line(f"\nNext: mn events {job_id}\n      mn agent list {job_id}\n      mn graph {job_id}")
