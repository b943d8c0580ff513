"""String commands: paths and placeholders are inserted so that the shell takes them for plain text."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from mirrorneuron.message import Message, seed
from mirrorneuron.settings import Settings
from workers.lifecycle.run_handle import RunHandle
from workers.runners.host_local import HostLocal
from workers.runners.protocol import RunRequest

FOLDERS = ["plain", "with space", "a'b", 'a"b', "a;echo INJECTED;b", "$HOME", "`id`", "a&b", "a\\b", "*", "ü"]
COMMANDS = [
    "cat {input_file}",
    'cat "{input_file}"',
    "cat '{input_file}'",
    "bash -c 'cat \"$1\"' - {input_file}",
    "# don't\ncat {input_file}",
    "cat /sandbox/job/mirror_neuron_input.json",
    'cat "/sandbox/job/mirror_neuron_input.json"',
    "cat '/sandbox/job/mirror_neuron_input.json'",
    "cd /sandbox/job && cat mirror_neuron_input.json",
    'x=/sandbox/job; cat "$x/mirror_neuron_input.json"',
    "cat {workdir}/mirror_neuron_input.json",
]
LISTS = [
    ["sh", "-c", "cat {input_file}"],
    ["/bin/bash", "-eo", "pipefail", "-c", 'cat "/sandbox/job/mirror_neuron_input.json" | cat'],
    ["env", "X=1", "bash", "-o", "errexit", "-uc", "cat '{input_file}'"],
    ["bash", "-c", 'cat "$1"', "sh", "{input_file}"],
    ["cat", "/sandbox/job/mirror_neuron_input.json"],
]


def printed(temp_dir: Path, command: str | list[str], agent_id: str = "a") -> str:
    message = Message(**seed({"body": {"n": 1}}, job_id="j", to=agent_id, message_id="m", timestamp="now"))
    config = {"command": command}
    request = RunRequest("j", agent_id, "executor", "generic", config, message, {}, None, "n")
    result = HostLocal(Settings.load(temp_dir=temp_dir)).run(request, RunHandle())
    assert result.error is None, result
    return result.sandbox["stdout"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("command", [*COMMANDS, *LISTS], ids=str)
def test_the_name_of_the_nodes_folder_does_not_matter(tmp_path: Path, folder: str, command: str | list[str]):
    assert json.loads(printed(tmp_path / folder, command)) == {"n": 1}


@pytest.mark.parametrize("agent_id", ["a b", "it's", "$(echo INJECTED)", 'x"; echo INJECTED; "'])
@pytest.mark.parametrize(
    "command",
    ["printf %s {agent_id}", 'printf %s "{agent_id}"', "printf %s '{agent_id}'", ["sh", "-c", "printf %s {agent_id}"]],
)
def test_a_value_is_never_run(tmp_path: Path, agent_id: str, command: str | list[str]):
    assert printed(tmp_path, command, agent_id) == agent_id


def test_other_braces_stay(tmp_path: Path):
    script = 'job_id=mine; echo ${job_id} {x} {a,b} "{ job_id }" {job_id}; awk \'BEGIN {print "{y}"}\''
    assert printed(tmp_path, script) == "mine {x} a b { job_id } j\n{y}\n"


def test_python3_is_the_workers_python_although_its_environment_is_not_active(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    folder = os.path.dirname(sys.executable)
    expected = "/usr/bin:/bin\n" if folder in ("/usr/bin", "/bin") else f"{folder}:/usr/bin:/bin\n"
    assert printed(tmp_path, "echo $PATH") == expected
    monkeypatch.setenv("PATH", f"/usr/bin:{folder}:/bin:{folder}")  # the folder is there, behind another Python
    assert str(printed(tmp_path, "echo $PATH")).split(":")[0] == folder
    assert printed(tmp_path, "{python} -c 'import sys; print(sys.executable)'").strip() == sys.executable
