"""The table of commands. A command's module is imported when the command is used."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from mirrorneuron.cli import exits
from mirrorneuron.cli.commands.version import print_version

JOBS: Final = "Jobs"
BUNDLES: Final = "Bundles"
MACHINES: Final = "Machines"
SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of the table."""

    target: str  #: module:function within this package
    help: str  #: the first line of that function's docstring
    panel: str  #: heading in the help


@dataclass(frozen=True, slots=True)
class Group:
    """Commands that share their first word, as `mn job list` and `mn job inspect` do."""

    help: str
    panel: str
    table: Mapping[str, Entry]


COMMANDS: Final[Mapping[str, Entry | Group]] = {
    "validate": Entry("validate:validate", "Check a bundle folder and report every problem.", BUNDLES),
    "graph": Entry("graph:graph", "Print the graph of a bundle or job as Mermaid, Graphviz or SVG.", BUNDLES),
    "run": Entry("run:run", "Submit a bundle, show its progress and print its result.", JOBS),
    "wait": Entry("run:wait", "Wait until a job ends and print its result.", JOBS),
    "events": Entry("events:events", "Show the events of a job.", JOBS),
    "logs": Entry("logs:logs", "Show the output of the agents of a job.", JOBS),
    "why": Entry("why:why", "Explain why a job makes no progress, and what to do.", JOBS),
    "pause": Entry("control:pause", "Pause a job: its agents take no new messages.", JOBS),
    "resume": Entry("control:resume", "Resume a paused job.", JOBS),
    "cancel": Entry("control:cancel", "Cancel a job and kill its running commands.", JOBS),
    "send": Entry("send:send", "Send a message to an agent of a job and print the message's id.", JOBS),
    "retry": Entry("control:retry", "Retry a failed or cancelled job.", JOBS),
    "dead-letters": Entry("dead_letters:dead_letters", "List the dead letters of a job.", JOBS),
    "replay": Entry("dead_letters:replay", "Replay a dead letter and print the new message's id.", JOBS),
    "job": Group(
        "List, inspect or delete jobs.",
        JOBS,
        {
            "list": Entry("jobs:list_jobs", "List jobs, newest first.", JOBS),
            "inspect": Entry("jobs:inspect", "Show the job map of a job: its status, times and result.", JOBS),
            "cleanup": Entry("cleanup:cleanup", "Delete ended jobs.", JOBS),
        },
    ),
    "agent": Group(
        "List the agents of a job.",
        JOBS,
        {"list": Entry("agents:list_agents", "List the agents of a job, in manifest order.", JOBS)},
    ),
    "up": Entry("up:up", "Run a server (unless one is reachable), a node and the dashboard until Ctrl-C.", MACHINES),
    "down": Entry("down:down", "Stop the embedded server and the nodes started with it.", MACHINES),
    "worker": Entry("worker:worker", "Run a node: workers that run the agents of jobs, until Ctrl-C.", MACHINES),
    "dashboard": Entry("dashboard:dashboard", "Serve the dashboard (Flower) until Ctrl-C.", MACHINES),
    "chaos": Entry("chaos:chaos", "Crash test: kill nodes, commands, clients and the server while jobs run.", MACHINES),
    "node": Group(
        "List the nodes.",
        MACHINES,
        {"list": Entry("nodes:list_nodes", "List the live nodes and their pools.", MACHINES)},
    ),
    "monitor": Entry("monitor:monitor", "Watch the nodes and jobs, or one job, until Ctrl-C.", MACHINES),
    "doctor": Entry("doctor:doctor", "Check the store, the broker and the nodes, and report problems.", MACHINES),
    "version": Entry("version:version", "Show the versions of MirrorNeuron and its dependencies.", MACHINES),
}

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]


class LazyGroup(TyperGroup):
    """A group that knows the name and help line of each command, and loads a command when it is used."""

    table: Mapping[str, Entry | Group]

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, None if found is None else load(str(name), self.table[str(name)]), rest


def root() -> TyperGroup:
    """Return the command `mn` itself."""
    return _group("mn", "Run a graph of agents as one durable job, on Celery workers.", COMMANDS, _root)


def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    verbose: Verbose = False,
) -> None:
    exits.note_verbose(verbose)
    if version:
        print_version()
    else:
        _help_without_command(ctx)


def _help_without_command(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        sys.stdout.write(ctx.get_help().rstrip() + "\n")


def _group(
    name: str, text: str, table: Mapping[str, Entry | Group], callback: Callable[..., None] = _help_without_command
) -> TyperGroup:
    app = typer.Typer(cls=LazyGroup, add_completion=False, context_settings=SETTINGS, rich_markup_mode="rich")
    app.callback(invoke_without_command=True, help=text)(callback)
    group = get_command(app)
    assert isinstance(group, LazyGroup)
    group.name, group.table = name, table
    for word, entry in table.items():
        group.add_command(TyperCommand(word, help=entry.help, rich_help_panel=entry.panel))
    return group


def load(name: str, entry: Entry | Group) -> Any:
    """Import the module of *entry* and return its Typer command; of a Group, the Typer group."""
    if isinstance(entry, Group):
        return _group(name, entry.help, entry.table)
    module, _, function = entry.target.partition(":")
    app = typer.Typer(add_completion=False, context_settings=SETTINGS, rich_markup_mode="rich")
    app.command(name)(_common(getattr(import_module(f"{__package__}.commands.{module}"), function)))
    return get_command(app)


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """Add to *command* what every command has: the option `-v`, and exit code 141 when the reader closes stdout."""

    @functools.wraps(command)
    def wrapped(*, verbose: bool, **kwargs: Any) -> None:
        exits.note_verbose(verbose)
        try:
            command(**kwargs)
        except BrokenPipeError as error:
            raise exits.StdoutClosed from error  # Typer would exit with code 1

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
    wrapped.__doc__ = _reflowed(inspect.getdoc(command) or "")
    wrapped.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    return wrapped


def _reflowed(text: str) -> str:
    """Return *text* with each paragraph on one line: Typer keeps line breaks, whatever the terminal's width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
