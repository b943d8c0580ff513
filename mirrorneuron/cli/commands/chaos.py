"""`mn chaos`: a crash test with a server, nodes and a folder of its own."""

from __future__ import annotations

import secrets
import textwrap
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from mirrorneuron.chaos import clock, schedule
from mirrorneuron.chaos.driver import Audience, Driver, Progress, Report
from mirrorneuron.chaos.invariants import Flaw
from mirrorneuron.chaos.schedule import Kind, Schedule
from mirrorneuron.chaos.stage import raised
from mirrorneuron.cli import output, signals, target
from mirrorneuron.cli.exits import Code, complain
from mirrorneuron.cli.options import Json
from mirrorneuron.text import count

NODE: Final = (*target.MN, "worker")
SEEDS: Final = 1_000_000
WIDTH: Final = 100  # of the printed schedule, in characters
VIOLATIONS_MAX: Final = 20  # violations that are printed without --json


def chaos(
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Repeat the schedule of this seed. Default: a new seed.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="The number of jobs to submit.")] = 200,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", min=0.01, help="How long the kills go on, in minutes.")
    ] = 2,
    json: Json = False,
) -> None:
    """Crash test: kill nodes, commands, clients and the server while jobs run.

    It also stops workers and the server and lets them come back, makes connections slow, half-open or cut, loses
    announcements and the last writes of the server, sets the server's clock (if libfaketime is there), and lets the
    server refuse writes and a worker's files. The schedule and the report count all of this as kills.

    The test reports what was lost, doubled, stuck or left behind. It starts a server and nodes of its own, uses no
    others, and removes everything at the end. The same --seed, --jobs and --minutes give the same schedule.

    Exit codes: 0 no violations; 1 violations were found; 5 the server or the nodes did not start.
    """
    planned = schedule.plan(secrets.randbelow(SEEDS) if seed is None else seed, jobs, minutes)
    if not clock.library():
        planned = planned.without(Kind.CLOCK)
    if json:
        complain(f"seed {planned.seed}")
    else:
        _show_schedule(planned)
    with signals.interrupting(once=True), raised(NODE) as stage, _audience(json=json) as audience:
        report = Driver(stage, planned, audience).run()
        signals.ignore()  # do not interrupt the cleanup
    output.document(_document(report)) if json else _show(report)
    raise typer.Exit(Code.JOB_FAILED if report.violations else Code.OK)


class Plain:
    """Prints what happens as lines; nothing if *silent*."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent

    def note(self, text: str, /) -> None:
        if not self._silent:
            output.line(text)

    def look(self, progress: Progress) -> None:
        pass


def _audience(*, json: bool) -> AbstractContextManager[Audience]:
    if output.on_terminal() and not json:
        screen: AbstractContextManager[Audience] = import_module("mirrorneuron.cli.terminal.chaos_screen").screen()
        return screen
    return nullcontext(Plain(silent=json))


def _show_schedule(planned: Schedule) -> None:
    output.line(f"seed {planned.seed}: {count(planned.jobs, 'job')} in {planned.minutes:g} min; kills at")
    strikes = ", ".join(str(strike).replace(" ", "\xa0") for strike in planned.strikes)  # no line break within one
    for line in textwrap.wrap(strikes, WIDTH, initial_indent="  ", subsequent_indent="  "):
        output.line(line.replace("\xa0", " "))
    output.line("starting a server and nodes for the test")


def _show(report: Report) -> None:
    if output.on_terminal():
        output.line("")
    kills = ", ".join(f"{number} {kind}" for kind, number in _by_kind(report).items())
    output.fields(
        {
            "seed": report.schedule.seed,
            "jobs": report.schedule.jobs,
            "seconds": f"{report.seconds:.1f}",
            "kills": f"{report.kills.total()} ({kills})",
            **{str(kind): f"left out, {clock.MISSING}" for kind in report.schedule.left_out},
            "kills without a target": report.missed,
            "re-runs": report.reruns,
            "jobs submitted again": report.resubmitted,
            "refused": ", ".join(f"{number} {what}" for what, number in report.refused.items()),
            **{flaw.replace("_", " "): report.count(flaw) for flaw in Flaw},
        }
    )
    for violation in report.violations[:VIOLATIONS_MAX]:
        complain(str(violation))
    if len(report.violations) > VIOLATIONS_MAX:
        complain(f"and {len(report.violations) - VIOLATIONS_MAX} more (--json shows all)")


def _by_kind(report: Report) -> dict[str, int]:
    return {str(kind): report.kills[kind] for kind in Kind}


def _document(report: Report) -> dict[str, Any]:
    planned = report.schedule
    strikes = [{"at_s": strike.at_s, "kind": strike.kind, "which": strike.which} for strike in planned.strikes]
    return {
        "seed": planned.seed,
        "jobs": planned.jobs,
        "minutes": planned.minutes,
        "schedule": strikes,
        "seconds": round(report.seconds, 3),
        "kills": _by_kind(report),
        "left_out": {str(kind): clock.MISSING for kind in report.schedule.left_out},
        "missed": report.missed,
        "re_runs": report.reruns,
        "resubmitted": report.resubmitted,
        "refused": dict(report.refused),
        **{str(flaw): report.count(flaw) for flaw in Flaw},
        "violations": [
            {"flaw": found.flaw, "where": found.where, "what": found.what, "count": found.count}
            for found in report.violations
        ],
    }
