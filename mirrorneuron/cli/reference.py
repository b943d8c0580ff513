"""The command line reference: Markdown generated from the command table and the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from typer.core import TyperArgument, TyperOption

from mirrorneuron.cli.command_table import COMMANDS, SETTINGS, Entry, Group, load, root
from mirrorneuron.cli.exits import MEANINGS

Parameter: TypeAlias = TyperArgument | TyperOption

OPTION: Final = re.compile(r"(`[^`]*`)|(?<![\w-])(--?[a-z][a-z-]*)")  #: an option within a sentence, or a code span


@dataclass(frozen=True, slots=True)
class Command:
    """What the reference says of one command."""

    name: str  #: `job list`; empty for `mn` itself
    help: str
    panel: str
    arguments: tuple[TyperArgument, ...]
    options: tuple[TyperOption, ...]


def cli_reference() -> str:
    """Return the reference as Markdown: exit codes, common options, then each command under its panel's heading."""
    commands = [_command(name, entry) for name, entry in _entries(COMMANDS)]
    common = _common(commands)
    lines = [
        "# Command line reference",
        "",
        "`mn` and `mirrorneuron` are the same program. Results go to stdout, messages and errors to stderr.",
        "",
        *_root_section(),
        "## Exit codes",
        "",
        *_table(("Code", "Meaning"), [(f"{code:d}", meaning) for code, meaning in MEANINGS.items()]),
        "## Options of every command",
        "",
        *_table(("Option", "Meaning"), [*((_names(option), _sentence(option)) for option in common), _help_row()]),
    ]
    for panel in dict.fromkeys(command.panel for command in commands):
        lines += [f"## {panel}", ""]
        for command in commands:
            if command.panel == panel:
                lines += _section(command, common)
    return "\n".join(lines).rstrip() + "\n"


def _entries(table: Mapping[str, Entry | Group], prefix: str = "") -> Iterator[tuple[str, Entry]]:
    for name, entry in table.items():
        if isinstance(entry, Group):
            yield from _entries(entry.table, f"{name} ")
        else:
            yield prefix + name, entry


def _command(name: str, entry: Entry) -> Command:
    made = load(name, entry)
    arguments = tuple(parameter for parameter in made.params if isinstance(parameter, TyperArgument))
    options = tuple(parameter for parameter in made.params if isinstance(parameter, TyperOption))
    return Command(name, made.help, entry.panel, arguments, options)


def _common(commands: Sequence[Command]) -> list[TyperOption]:
    """The options that every command has with the same help."""
    first, *others = ({_key(option): option for option in command.options} for command in commands)
    return [option for key, option in first.items() if all(key in other for other in others)]


def _key(option: TyperOption) -> tuple[Any, ...]:
    return tuple(option.opts), option.help


def _root_section() -> list[str]:
    mn = root()
    options = [parameter for parameter in mn.params if isinstance(parameter, TyperOption)]
    rows = [*((_names(option), _sentence(option)) for option in options), _help_row()]
    return [
        str(mn.help),
        "",
        "```text",
        "mn [OPTIONS] COMMAND [ARGS]...",
        "```",
        "",
        *_table(("Option", "Meaning"), rows),
    ]


def _section(command: Command, common: Sequence[TyperOption]) -> list[str]:
    usage = " ".join(["mn", command.name, "[OPTIONS]", *map(_placeholder, command.arguments)])
    lines = [f"### mn {command.name}", "", "```text", usage, "```", ""]
    for paragraph in command.help.split("\n\n"):
        lines += [_code(" ".join(paragraph.split())), ""]
    if command.arguments:
        rows = [(f"`{_metavar(argument)}`", _sentence(argument)) for argument in command.arguments]
        lines += _table(("Argument", "Meaning"), rows)
    keys = set(map(_key, common))
    own = [option for option in command.options if _key(option) not in keys]
    if own:
        rows3 = [(_names(option), _default(option), _sentence(option)) for option in own]
        lines += _table(("Option", "Default", "Meaning"), rows3)
    return lines


def _placeholder(argument: TyperArgument) -> str:
    return _metavar(argument) if argument.required else f"[{_metavar(argument)}]"


def _metavar(parameter: Parameter) -> str:
    choices = _choices(parameter)
    return parameter.metavar or ("|".join(choices) if choices else str(parameter.name).upper())


def _choices(parameter: Parameter) -> list[str]:
    kind = parameter.type_descriptor.annotation
    return [str(choice.value) for choice in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def _names(option: TyperOption) -> str:
    value = "" if option.is_flag else f" {_metavar(option)}"
    names = [f"`{name}{value}`" for name in option.opts]
    return ", ".join(names) + "".join(f" / `{name}`" for name in option.secondary_opts)


def _default(option: TyperOption) -> str:
    default = option.default
    if option.is_flag:
        return f"`{option.opts[0] if default else option.secondary_opts[0]}`" if option.secondary_opts else ""
    return "" if default is None else f"`{default.value if isinstance(default, Enum) else default}`"


def _sentence(parameter: Parameter) -> str:
    """The help of *parameter*, with what its type adds: the choices that the metavar hides, and the range."""
    parts = [str(parameter.help)]
    if parameter.metavar and (choices := _choices(parameter)):
        parts.append(f"One of {', '.join(f'`{choice}`' for choice in choices)}.")
    if parameter.min is not None and parameter.max is not None:
        parts.append(f"{parameter.min} to {parameter.max}.")
    elif parameter.min is not None:
        parts.append(f"At least {parameter.min}.")
    return _code(" ".join(parts))


def _help_row() -> tuple[str, str]:
    return ", ".join(f"`{name}`" for name in reversed(SETTINGS["help_option_names"])), "Show the help and exit."


def _code(text: str) -> str:
    """*text* with the options in it as code."""
    return OPTION.sub(lambda found: found[1] or f"`{found[2]}`", text)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, with an empty one behind it."""
    marked = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (heads, *rows)]
    return [marked[0], "|" + " --- |" * len(heads), *marked[1:], ""]
