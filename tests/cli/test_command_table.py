"""The table of commands: every entry exists, and its module is imported only when it is used."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

from mirrorneuron.cli.command_table import COMMANDS, Entry, Group
from tests.cli.conftest import RESEARCH, ROOT, Mn
from tests.support.valkey import ValkeyServer

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


HEAVY = {"celery", "kombu", "redis", "asyncio", "pydantic", "rich", "importlib.metadata", "mirrorneuron.diagnostics"}
OF_THE_STORE = {"asyncio", "importlib.metadata", "redis"}  # redis-py imports the other two


def loaded(args: list[str], env: dict[str, str] | None = None) -> set[str]:
    """Which of the HEAVY modules `mn` with *args* imports. They are most of the time of a short command."""
    code = (
        "import sys, atexit; sys.argv[0] = 'mn'; from mirrorneuron.cli import main;"
        f"atexit.register(lambda: print('LOADED', *{HEAVY} & set(sys.modules), file=sys.stderr)); main()"
    )
    command = [sys.executable, "-c", code, *args]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return set(ended.stderr.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("args", [["validate", RESEARCH], ["validate", "/nowhere"], ["unheard-of"]])
def test_validation_and_wrong_arguments_load_nothing_heavy(args):
    assert loaded(args) == set()


def test_help_loads_only_what_draws_it():
    assert loaded(["--help"]) <= {"rich", "asyncio", "importlib.metadata"}
    assert loaded(["--version"]) == {"importlib.metadata"}


@pytest.mark.parametrize(
    "words",
    [
        ["run", RESEARCH, "--no-await"],
        ["job", "inspect", "j"],
        ["agent", "list", "j"],
        ["events", "j"],
        ["node", "list"],
    ],
    ids=" ".join,
)
def test_a_submission_and_a_reading_command_load_only_what_reaches_the_store(server: ValkeyServer, words):
    env = {**os.environ, "MIRROR_NEURON_REDIS_URL": server.url, "MIRROR_NEURON_REDIS_NAMESPACE": "loaded"}
    assert loaded(words, env) == OF_THE_STORE


def test_the_command_line_also_runs_as_a_module():
    argv = [sys.executable, "-m", "mirrorneuron.cli", "--version"]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=True).stdout.startswith(b"mirrorneuron ")
