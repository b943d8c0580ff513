"""`mn dead-letters` and `mn replay`: list the dead letters of a job, and send one again."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import JobId, Json

COLUMNS = ("message", "agent", "when", "reason")

MessageId = Annotated[
    str, typer.Argument(metavar="MESSAGE", help="The message's id, as `mn dead-letters` shows it.", show_default=False)
]
To = Annotated[
    str | None, typer.Option("--to", metavar="AGENT", help="Send it to this agent instead of its recipient.")
]


def dead_letters(job: JobId, json: Json = False) -> None:
    """List the dead letters of a job.

    A dead letter is a message that expired, or whose recipient does not exist. `mn replay` sends one again.
    The message on which a job failed is listed last; `mn retry` handles it again.

    Exit codes: 0 listed, even if there are none; 3 no such job.
    """
    found = target.client().dead_letters(job)
    if json:
        output.document(found)
    elif not found:
        output.line(f"job {job} has no dead letters")
    else:
        rows = ((dead["message_id"], dead["agent_id"], dead["timestamp"], dead["reason"]) for dead in found)
        output.table(COLUMNS, rows)


def replay(job: JobId, message: MessageId, to: To = None, json: Json = False) -> None:
    """Replay a dead letter and print the new message's id.

    The message is sent to its recipient, or to --to, and removed from the dead letters.

    Exit codes: 0 delivered; 2 the job has ended, or failed on this message; 3 no such job, dead letter or agent.
    """
    new = target.client().replay(job, message, to_agent=to)
    output.document({"message_id": new}) if json else output.line(new)
