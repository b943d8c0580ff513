"""`mn logs`: what commands and modules print, while they run and afterwards."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from mirrorneuron.api.client import Client
from mirrorneuron.cli import output, target
from mirrorneuron.cli.exits import Code, complain, printable
from mirrorneuron.cli.options import JobId, Json
from mirrorneuron.cli.target import plan_of
from mirrorneuron.job import LogChunk

LONGEST: Final = 64 * 1024  # characters of a line that are waited for
WIDEST: Final = 24  # characters to which the names before the lines are filled up

AgentId = Annotated[
    str | None, typer.Argument(metavar="AGENT", help="Only what this agent prints.", show_default=False)
]


def logs(
    job: JobId,
    agent: AgentId = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    json: Json = False,
) -> None:
    """Show what the agents of a job have printed, or print.

    Colours are left out, and control characters made harmless.
    With --json each piece is one JSON document on a line of its own, with its text as it was printed.

    Exit codes: 0 shown; 3 no such job or agent; 130 Ctrl-C: the job goes on.
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
        complain("nothing has been printed")


def _prefixes(client: Client, job: str) -> Mapping[str, str]:
    """What stands before the lines of each agent; nothing where only one of them can print."""
    names = [node.node_id for node in plan_of(client, job).nodes.values() if not node.light]
    width = min(WIDEST, max(map(len, names), default=0))
    return {name: f"{printable(name):<{width}} | " for name in names} if len(names) > 1 else {}


class Printer:
    """Puts chunks on stdout as they come. With *prefixes* line by line, so that those of two agents do not mix."""

    def __init__(self, prefixes: Mapping[str, str]) -> None:
        self._prefixes = prefixes
        self._cleaners: dict[tuple[str, str], Cleaner] = {}
        self._begun: dict[tuple[str, str], str] = {}  #: agent and stream -> a line that goes on
        self._last = "\n"

    def add(self, chunk: LogChunk) -> None:
        stream = chunk["agent_id"], chunk["stream"]
        text = self._cleaners.setdefault(stream, Cleaner()).clean(chunk["text"])
        if not self._prefixes:
            self._write(text)
            return
        *lines, rest = (self._begun.pop(stream, "") + text).split("\n")
        if len(rest) > LONGEST:
            lines, rest = [*lines, rest], ""
        if rest:
            self._begun[stream] = rest
        self._lines(stream[0], lines)

    def end(self) -> None:
        """Print what has no end of its line."""
        for (agent, _), rest in self._begun.items():
            self._lines(agent, [rest])
        self._begun.clear()
        if self._last != "\n" and output.on_terminal():
            self._write("\n")

    def _lines(self, agent: str, lines: list[str]) -> None:
        prefix = self._prefixes.get(agent, "")
        self._write("".join(f"{prefix}{line}\n" for line in lines))

    def _write(self, text: str) -> None:
        if text:
            self._last = text[-1]  # first, as a Ctrl-C may come at any time
            sys.stdout.write(text)
            sys.stdout.flush()


class Cleaner:
    """The text of one stream, made harmless piece by piece: nothing but tabs and line ends steers the terminal."""

    _COLOURS: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # and what else only changes how text looks
    _LINE_END: Final = re.compile(r"\r\n?")  # a lone one begins a progress bar anew
    _CUT: Final = re.compile(r"(\r|\x1b(\[[0-?]{0,64}[ -/]{0,8})?)\Z")
    _TEXT: Final = re.compile(r"[^\n\t]+")

    def __init__(self) -> None:
        self._rest = ""  #: the beginning of what the end of a piece has cut in two

    def clean(self, piece: str) -> str:
        text = self._rest + piece
        cut = self._CUT.search(text)
        text, self._rest = (text[: cut.start()], cut[0]) if cut else (text, "")
        text = self._LINE_END.sub("\n", self._COLOURS.sub("", text))
        return self._TEXT.sub(lambda found: printable(found[0]), text)
