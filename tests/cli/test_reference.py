"""The generated command line reference contains every command, argument, option and exit code."""

from __future__ import annotations

import re

import pytest

from mirrorneuron.cli.command_table import load
from mirrorneuron.cli.exits import MEANINGS, Code
from mirrorneuron.cli.reference import cli_reference
from tests.cli.test_command_table import ENTRIES

REFERENCE = cli_reference()
SECTIONS = dict(re.findall(r"^##+ (.*)\n((?:(?!##).*\n)*)", REFERENCE, re.MULTILINE))


def test_every_exit_code_has_a_meaning():
    assert set(MEANINGS) == set(Code)
    for code, meaning in MEANINGS.items():
        assert f"| {code:d} | {meaning} |" in SECTIONS["Exit codes"]


@pytest.mark.parametrize("command", ENTRIES)
def test_the_reference_contains_a_command_with_its_help_arguments_and_options(command):
    section = SECTIONS[f"mn {command}"] + SECTIONS["Options of every command"]
    assert ENTRIES[command].help in section
    for parameter in load(command, ENTRIES[command]).params:
        names = parameter.opts + parameter.secondary_opts if parameter.param_type_name == "option" else []
        for name in names or [parameter.metavar.replace("|", "\\|")]:
            assert re.search(rf"\| .*`{re.escape(name)}[` ]", section), name
        assert parameter.help.split("`")[0].split("--")[0] in section


def test_common_options_are_listed_once():
    for option in ("--json", "--verbose", "--help"):
        assert f"`{option}`" in SECTIONS["Options of every command"]
    assert "| `--json`" not in SECTIONS["mn run"]


def test_defaults_and_choices_are_shown():
    assert "| `--await` / `--no-await` | `--await` |" in SECTIONS["mn run"]
    assert "| `--port N` | `5555` |" in SECTIONS["mn dashboard"]
    assert "| `--format mermaid\\|dot\\|svg` | `mermaid` |" in SECTIONS["mn graph"]
