"""Asking the person at the terminal. Only where there is one, and never under `--json`, whose stdout is a document."""

from __future__ import annotations

import sys

from mirrorneuron.api.client import Client
from mirrorneuron.cli import output

SHOWN = 50  # jobs to choose from


def possible(*, json: bool) -> bool:
    """Is there somebody to ask?"""
    return not json and sys.stdin.isatty() and output.on_terminal()


def agreed(question: str) -> bool:
    """Ask; only yes is yes."""
    return _answer(f"{question} [y/N] ").lower() in ("y", "yes")


def choose_live_job(client: Client, verb: str) -> str | None:
    """Show the live jobs, newest first, and return the id of the one that is chosen; None when none is."""
    jobs = client.list_jobs(limit=SHOWN + 1, include_terminal=False)
    if not jobs:
        output.line("no job is live")
        return None
    shown = jobs[:SHOWN]
    rows = (
        (number, job["job_id"], job["status"], job["submitted_at"], job["job_name"])
        for number, job in enumerate(shown, start=1)
    )
    output.table(("#", "job", "status", "submitted", "name"), rows)
    if len(jobs) > SHOWN:
        output.line("There are more: mn job list --live --limit 0")
    while answer := _answer(f"{verb} which, 1 to {len(shown)} (Enter: none)? "):
        if answer.isdecimal() and 1 <= int(answer) <= len(shown):
            return shown[int(answer) - 1]["job_id"]
        output.line(f"{answer!r} is none of them")
    output.line("nothing done")
    return None


def _answer(question: str) -> str:
    """One line from the keyboard; "" for a Ctrl-D."""
    sys.stdout.write(question)
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        output.line("")
    return line.strip()
