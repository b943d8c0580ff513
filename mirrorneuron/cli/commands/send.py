"""`mn send`: send a message to an agent of a job."""

from __future__ import annotations

from typing import Annotated, Any, BinaryIO

import typer

from mirrorneuron.bundle.exact_json import duplicate_keys
from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import JobId, Json, utf8
from mirrorneuron.errors import MessageInvalid
from mirrorneuron.message import decode

HINT = "MESSAGE"

AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.", show_default=False, callback=utf8)]
File = Annotated[
    typer.FileBinaryRead,
    typer.Argument(metavar=HINT, help="A file with the message as JSON, or `-` for stdin.", show_default=False),
]


def send(job: JobId, agent: AgentId, message: File, json: Json = False) -> None:
    """Send a message to an agent of a job and print the message's id.

    The message is a JSON object as in `initial_inputs`, or a complete message with an `envelope`. A message
    with the same `message_id` is delivered once.

    Exit codes: 0 delivered; 2 the message is invalid or too large, or the job has ended; 3 no such job or agent.
    """
    payload = _read(message)
    client = target.client()
    try:
        sent = client.send_message(job, agent, payload)
    except MessageInvalid as error:
        raise typer.BadParameter(str(error), param_hint=HINT) from error
    output.document({"message_id": sent}) if json else output.line(sent)


def _read(file: BinaryIO) -> Any:
    """Return the JSON value of *file*. Raises BadParameter with line and column, or a duplicate key's path."""
    try:
        text = file.read()
        value = decode(text)
    except ValueError as error:
        raise typer.BadParameter(f"{file.name} is not valid JSON: {error}", param_hint=HINT) from error
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file.name}: {error}", param_hint=HINT) from error
    for path in duplicate_keys(text):
        raise typer.BadParameter(f"{file.name}: {path}: duplicate key", param_hint=HINT)
    return value
