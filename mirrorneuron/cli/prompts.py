"""Questions to the user. They are asked on a terminal only, and never with `--json`, where stdout is a document."""

from __future__ import annotations

import sys

from mirrorneuron.api.client import Client
from mirrorneuron.cli import output

CHOICES_MAX = 50  # jobs to choose from


def possible(*, json: bool) -> bool:
    """Return True if the user can be asked: stdin and stdout are terminals, and the output is not JSON."""
    return not json and sys.stdin.isatty() and output.on_terminal()


def agreed(question: str) -> bool:
    """Ask *question*; return True for `y` or `yes`."""
    return _answer(f"{question} [y/N] ").lower() in ("y", "yes")


def choose_live_job(client: Client, verb: str) -> str | None:
    """Show the live jobs, newest first; return the id of the chosen job, or None if the user chooses no job."""
    jobs = client.list_jobs(limit=CHOICES_MAX + 1, include_terminal=False)
    if not jobs:
        output.line("there are no live jobs")
        return None
    shown = jobs[:CHOICES_MAX]
    rows = (
        (number, job["job_id"], job["status"], job["submitted_at"], job["job_name"])
        for number, job in enumerate(shown, start=1)
    )
    output.table(("#", "job", "status", "submitted", "name"), rows)
    if len(jobs) > CHOICES_MAX:
        output.line("The list is cut. All live jobs: mn job list --live --limit 0")
    while answer := _answer(f"{verb} which job, 1 to {len(shown)} (Enter: none)? "):
        if answer.isdecimal() and 1 <= int(answer) <= len(shown):
            return shown[int(answer) - 1]["job_id"]
        output.line(f"{answer!r} is not a number from 1 to {len(shown)}")
    output.line("nothing was changed")
    return None


def _answer(question: str) -> str:
    """Ask *question* and return one line from stdin; "" for Ctrl-D."""
    sys.stdout.write(question)
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        output.line("")
    return line.strip()
