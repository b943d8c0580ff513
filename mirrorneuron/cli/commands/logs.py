"""`mn logs`: the output of commands and modules, while they run and afterwards."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from mirrorneuron.api.client import Client
from mirrorneuron.cli import output, target
from mirrorneuron.cli.exits import Code, complain
from mirrorneuron.cli.options import JobId, Json
from mirrorneuron.cli.target import plan_of
from mirrorneuron.job import LogChunk
from mirrorneuron.text import printable

LINE_MAX: Final = 64 * 1024  # characters; a longer unfinished line is printed at once
PREFIX_MAX: Final = 24  # characters to which the names before the lines are padded

AgentId = Annotated[
    str | None, typer.Argument(metavar="AGENT", help="Show only the output of this agent.", show_default=False)
]


def logs(
    job: JobId,
    agent: AgentId = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new output until the job ends.")] = False,
    json: Json = False,
) -> None:
    """Show the output of the agents of a job.

    Colours are removed, and control characters are escaped.
    With --json each chunk of output is one JSON document on one line, with its text unchanged.

    Exit codes: 0 shown; 3 no such job or agent; 130 Ctrl-C: the job continues.
    """
    client = target.client()
    chunks = client.logs(job, agent, follow=follow)
    printer = Printer({} if agent is not None or json else _prefixes(client, job))
    seen = False
    try:
        for chunk in chunks:
            seen = True
            output.record(chunk) if json else printer.add(chunk)
        printer.end()
    except KeyboardInterrupt:
        printer.end()
        raise typer.Exit(Code.INTERRUPTED) from None
    if not seen and not json:
        complain("there is no output")


def _prefixes(client: Client, job: str) -> Mapping[str, str]:
    """Return the prefix of each agent's lines; empty if only one agent of the job can print."""
    names = [node.node_id for node in plan_of(client, job).nodes.values() if not node.light]
    width = min(PREFIX_MAX, max(map(len, names), default=0))
    return {name: f"{printable(name):<{width}} | " for name in names} if len(names) > 1 else {}


class Printer:
    """Writes chunks to stdout as they arrive; with *prefixes* in whole lines, so that two agents' lines do not mix."""

    def __init__(self, prefixes: Mapping[str, str]) -> None:
        self._prefixes = prefixes
        self._cleaners: dict[tuple[str, str], Cleaner] = {}
        self._unfinished: dict[tuple[str, str], str] = {}  #: agent and stream -> a line without its end so far
        self._last = "\n"

    def add(self, chunk: LogChunk) -> None:
        stream = chunk["agent_id"], chunk["stream"]
        text = self._cleaners.setdefault(stream, Cleaner()).clean(chunk["text"])
        if not self._prefixes:
            self._write(text)
            return
        *lines, rest = (self._unfinished.pop(stream, "") + text).split("\n")
        if len(rest) > LINE_MAX:
            lines, rest = [*lines, rest], ""
        if rest:
            self._unfinished[stream] = rest
        self._lines(stream[0], lines)

    def end(self) -> None:
        """Print the unfinished lines."""
        for (agent, _), rest in self._unfinished.items():
            self._lines(agent, [rest])
        self._unfinished.clear()
        if self._last != "\n" and output.on_terminal():
            self._write("\n")

    def _lines(self, agent: str, lines: list[str]) -> None:
        prefix = self._prefixes.get(agent, "")
        self._write("".join(f"{prefix}{line}\n" for line in lines))

    def _write(self, text: str) -> None:
        if text:
            self._last = text[-1]  # before the write: Ctrl-C may interrupt it
            sys.stdout.write(text)
            sys.stdout.flush()


class Cleaner:
    """Escapes the control characters of one stream, chunk by chunk. Tabs and line ends remain; colours are removed."""

    _COLOURS: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # and other CSI sequences
    _LINE_END: Final = re.compile(r"\r\n?")  # a lone \r redraws a progress bar
    _CUT: Final = re.compile(r"(\r|\x1b(\[[0-?]{0,64}[ -/]{0,8})?)\Z")
    _TEXT: Final = re.compile(r"[^\n\t]+")

    def __init__(self) -> None:
        self._rest = ""  #: the start of a sequence that the end of a chunk has split

    def clean(self, chunk: str) -> str:
        text = self._rest + chunk
        cut = self._CUT.search(text)
        text, self._rest = (text[: cut.start()], cut[0]) if cut else (text, "")
        text = self._LINE_END.sub("\n", self._COLOURS.sub("", text))
        return self._TEXT.sub(lambda found: printable(found[0]), text)
