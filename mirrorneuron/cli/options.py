"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer


def utf8(text: str | None) -> str | None:
    """Return *text*, which is sent to the server. Raises BadParameter when it is not valid UTF-8."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{text!r} is not UTF-8") from None
    return text


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False, callback=utf8)]
Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="The bundle: a folder with a `manifest.json`.")]
TimeoutMs = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="MS", min=0, help="Stop waiting after this many milliseconds; the job continues."
    ),
]


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """Parse the values of a repeated option of the form K=V. Raises BadParameter."""
    found: dict[str, str] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{text!r} must have the form K=V", param_hint=option)
        found[name] = value
    return found
