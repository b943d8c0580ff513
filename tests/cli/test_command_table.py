"""The table of commands: every entry exists, and its module is imported only when it is used."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

from mirrorneuron.cli.command_table import COMMANDS, Entry, Group
from tests.cli.conftest import RESEARCH, ROOT, Mn

ENTRIES: dict[str, Entry] = {
    f"{name} {sub}".strip(): entry
    for name, found in COMMANDS.items()
    for sub, entry in (found.table.items() if isinstance(found, Group) else [("", found)])
}


@pytest.mark.parametrize("command", ENTRIES)
def test_the_help_of_the_table_is_the_first_line_of_the_docstring(command):
    module, _, function = ENTRIES[command].target.partition(":")
    documented = inspect.getdoc(getattr(import_module(f"mirrorneuron.cli.commands.{module}"), function))
    assert documented is not None
    assert documented.splitlines()[0] == ENTRIES[command].help


@pytest.mark.parametrize("command", ENTRIES)
def test_every_command_has_help_json_and_verbose(mn: Mn, command):
    shown = mn(*command.split(), "--help")
    assert shown.returncode == 0
    for option in ("--json", "--verbose", "--help"):
        assert option in shown.stdout


@pytest.mark.parametrize("words", [[], ["job"], ["agent"], ["node"], ["-h"], ["job", "--help"]])
def test_a_group_alone_shows_its_help(mn: Mn, words):
    shown = mn(*words)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Usage: mn" in shown.stdout


def test_the_version_is_that_of_the_package(mn: Mn):
    assert mn("--version").stdout == f"mirrorneuron {version('mirrorneuron')}\n"
    assert json.loads(mn("version", "--json").stdout)["mirrorneuron"] == version("mirrorneuron")
    assert version("celery") in mn("version").stdout


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["validate", RESEARCH], ["validate", "/nowhere"]])
def test_help_and_validation_load_neither_celery_nor_redis(args):
    code = (
        "import sys, atexit; sys.argv[0] = 'mn'; from mirrorneuron.cli import main;"
        "atexit.register(lambda: print('LOADED', {'celery', 'kombu', 'redis'} & set(sys.modules))); main()"
    )
    ended = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.endswith("LOADED set()\n")


def test_the_command_line_also_runs_as_a_module():
    argv = [sys.executable, "-m", "mirrorneuron.cli", "--version"]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=True).stdout.startswith(b"mirrorneuron ")
