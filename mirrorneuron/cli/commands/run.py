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
from mirrorneuron.cli.job_watch import MissingPoolHint, until_end
from mirrorneuron.cli.options import Folder, JobId, Json, TimeoutMs, pairs
from mirrorneuron.cli.target import Place, plan_of
from mirrorneuron.embedded import home
from mirrorneuron.job import TERMINAL, JobMap, JobStatus

START_A_NODE: Final = MissingPoolHint()
NODE_STARTS_S: Final = 20.0  #: time that a new node needs until it serves its pools


def run(
    folder: Folder,
    json: Json = False,
    timeout: TimeoutMs = None,
    await_: Annotated[
        bool, typer.Option("--await/--no-await", help="Wait until the job ends, or print its id and exit.")
    ] = True,
    job_id: Annotated[
        str | None,
        typer.Option(
            "--job-id", metavar="ID", help="The job's id. The same id with the same bundle and inputs is the same job."
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="K=V", help="Metadata of the job. May be given several times."),
    ] = None,
) -> None:
    """Submit a bundle, show its progress and print its result.

    If no server is configured and none answers, an embedded server and a node are started. They stop after 10 idle
    minutes, or with `mn down`. Ctrl-C detaches; the job continues. With --json the job map is printed.

    Exit codes: 0 completed; 1 failed or cancelled; 2 invalid bundle; 4 timed out; 5 no runtime.
    """
    if timeout is not None and not await_:
        raise typer.BadParameter("--timeout has no effect with --no-await: remove one of them")
    labels = pairs(metadata, "--metadata")
    arguments.new_job_id(job_id)  # before anything is started
    bundle = validate_manifest(folder)
    warn(bundle)
    place = target.find_or_start()
    new_node = place.embedded and target.ensure_node(place)
    client = place.client()
    started = client.run_manifest(job_bundle=bundle, job_id=job_id, metadata=labels)
    if await_ and (json or not output.on_terminal()):
        complain(f"job {started}")
    _show_started(place, new_node)
    if not await_:
        output.document({"job_id": started}) if json else output.line(started)
        return
    hint = MissingPoolHint(f"see {home() / 'node.log'}", NODE_STARTS_S) if new_node else START_A_NODE
    plan = make_plan(bundle.manifest)
    _finish(until_end(client, started, plan, timeout, json=json, hint=hint), json=json)


def wait(job: JobId, timeout: TimeoutMs = None, json: Json = False) -> None:
    """Wait until a job ends and print its result.

    Exit codes: 0 completed; 1 failed or cancelled; 3 no such job; 4 timed out; 5 no runtime.
    """
    client = target.client()
    found = client.inspect_job(job)
    if found["status"] not in TERMINAL:
        found = until_end(client, job, plan_of(client, job), timeout, json=json, hint=START_A_NODE)
    _finish(found, json=json)


def _show_started(place: Place, new_node: bool) -> None:
    """Report on stderr which server and node were started."""
    started = [name for name, new in (("a server", place.started), ("a node", new_node)) if new]
    if started:
        complain(f"started {' and '.join(started)}; stop: `mn down`, or 10 idle minutes")


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
