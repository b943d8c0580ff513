"""`mn graph`: print the graph of a bundle or job as Mermaid or Graphviz text, or as an SVG image."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from mirrorneuron.bundle.load import validate_manifest
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import Json
from mirrorneuron.drawing.svg import svg
from mirrorneuron.drawing.text_graph import Marks, dot, marks, mermaid
from mirrorneuron.errors import JobNotFound, NotFound
from mirrorneuron.job import is_job_id


class Format(StrEnum):
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"


WRITERS: Final = {Format.MERMAID: mermaid, Format.DOT: dot, Format.SVG: svg}


def graph(
    source: Annotated[str, typer.Argument(metavar="FOLDER|JOB", help="A bundle's folder, or a job's id.")],
    format: Annotated[Format, typer.Option("--format", help="The output format; `dot` is Graphviz.")] = Format.MERMAID,
    json: Json = False,
) -> None:
    """Print the graph of a bundle or job as Mermaid, Graphviz or SVG.

    The graph of a job marks the state of each agent.

    Exit codes: 0 printed; 2 invalid bundle; 3 no such job.
    """
    manifest, states = _of_job(source) if _is_job(source) else (validate_manifest(source).manifest, {})
    text = WRITERS[format](manifest, states)
    if json:
        output.document({"graph_id": manifest.graph_id, "format": format, "text": text})
    else:
        output.line(text.rstrip())


def _is_job(source: str) -> bool:
    return is_job_id(source) and not Path(source).exists()


def _of_job(job_id: str) -> tuple[Manifest, Marks]:
    client = target.client()
    try:
        manifest = client.job_manifest(job_id)
    except JobNotFound as error:
        raise NotFound(f"{error}, and no bundle folder {job_id!r}") from None
    return manifest, marks(client.inspect_agents(job_id))
