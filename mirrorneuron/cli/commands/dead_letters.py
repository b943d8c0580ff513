"""`mn dead-letters` and `mn replay`: messages that were given up on, and sending one again."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import JobId, Json

COLUMNS = ("message", "agent", "when", "reason")

MessageId = Annotated[
    str, typer.Argument(metavar="MESSAGE", help="The message's id, as `mn dead-letters` shows it.", show_default=False)
]
To = Annotated[str | None, typer.Option("--to", metavar="AGENT", help="To this agent, not the one it was meant for.")]


def dead_letters(job: JobId, json: Json = False) -> None:
    """List the messages of a job that were given up on.

    They were sent to an agent that is not there, or had expired: `mn replay` sends one again.
    The message on which a job failed is the last one: `mn retry` takes it up again.

    Exit codes: 0 listed, also when there is none; 3 no such job.
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
    """Send a dead letter again and print the new message's id.

    It leaves the list of dead letters.

    Exit codes: 0 delivered; 2 the job has ended, or failed on this message; 3 no such job, dead letter or agent.
    """
    new = target.client().replay(job, message, to_agent=to)
    output.document({"message_id": new}) if json else output.line(new)
