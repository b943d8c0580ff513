"""The command of a run: its files, its arguments and its environment."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Final

from mirrorneuron.bundle.passed_variables import is_private
from mirrorneuron.job import iso
from mirrorneuron.message import IDENTITY, JSON_TYPE, encode
from mirrorneuron.processes.by_environment import kill_where
from mirrorneuron.settings import PREFIX, Settings
from mirrorneuron.text import without_password
from workers.runners.answer import ANSWER_FILE
from workers.runners.body_file import body_bytes
from workers.runners.protocol import RunRefused, RunRequest
from workers.runners.sandbox_paths import SandboxPaths
from workers.runners.shell_text import substitute

INHERITED: Final = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
)  # the only variables of the worker that a command sees without `pass_env`
MARKER: Final = "MIRROR_NEURON_RUN_MARKER"  # identifies orphans: `<cluster>:<node>:<job>:<agent>`
_RUN_PREFIXES: Final = (PREFIX, "MN_")  # of the variables that the runner sets itself
_SHELLS: Final = frozenset({"ash", "bash", "dash", "ksh", "sh", "zsh"})
INPUT_FILE: Final = "MIRROR_NEURON_INPUT_FILE"
_ANSWER_NAME: Final = "mirror_neuron_answer.json"
_PLACEHOLDER: Final = re.compile(
    r"\{(input_file|context_file|message_file|body_file|answer_file|workdir|job_id|agent_id|python)\}"
)
_IN_SHELL: Final = re.compile(rf"(?<!\$){_PLACEHOLDER.pattern}")  # `${job_id}` is a variable of the script


def cluster_of(settings: Settings) -> str:
    """An id of the cluster (store and namespace): nodes of two clusters on one machine may have the same names."""
    store = f"{without_password(settings.redis_url)} {settings.redis_namespace}"
    return hashlib.sha256(store.encode()).hexdigest()[:16]


def mark_of(settings: Settings, node: str) -> str:
    """The beginning of the marker of all commands that worker *node* runs."""
    return f"{MARKER}={cluster_of(settings)}:{node}:"


def kill_leftovers(settings: Settings, job_id: str, agent_id: str) -> bool:
    """Kill the commands of an agent that a dead worker of this machine has left. Returns True if there was one.

    Usually the orphan killer has ended them, but it may have been killed with its worker. The caller holds the claim of
    the agent, so that no other command of it has a right to run.
    """
    its = (cluster_of(settings), job_id, agent_id)

    def is_its(mark: str) -> bool:
        cluster, _, rest = mark.partition(":")
        _, _, of = rest.partition(":")
        job, _, agent = of.partition(":")
        return (cluster, job, agent) == its

    return kill_where(MARKER, is_its)


def write_files(request: RunRequest, folder: Path) -> dict[str, str]:
    """Write input, message, body and context into *folder*; return the variables that name and describe the files.

    One variable names the file of the answer, which the command may write.
    `content_type` and `content_encoding` of the config override those of the message. Raises RunRefused.
    """
    message, config = request.message, request.config
    content_type = str(config.get("content_type") or message.envelope.get("content_type") or JSON_TYPE)
    content_encoding = str(config.get("content_encoding") or message.envelope.get("content_encoding") or IDENTITY)
    context = {
        "job_id": request.job_id,
        "agent_id": request.agent_id,
        "agent_type": request.agent_type,
        "template_type": request.template,
        "agent_state": request.agent_state,
        "timestamp": iso(time.time_ns() // 1_000_000),
    }
    files = {
        INPUT_FILE: ("mirror_neuron_input.json", encode(message.body)),
        "MIRROR_NEURON_MESSAGE_FILE": ("mirror_neuron_message.json", encode(message.as_dict())),
        "MIRROR_NEURON_BODY_FILE": ("mirror_neuron_body.bin", body_bytes(message.body, content_type, content_encoding)),
        "MIRROR_NEURON_CONTEXT_FILE": ("mirror_neuron_context.json", encode(context)),
    }
    variables = {}
    for variable, (name, data) in files.items():
        variables[variable] = path = f"{folder}/{name}"
        _write_new(path, name, data)
    answer = f"{folder}/{_ANSWER_NAME}"
    if os.path.lexists(answer):
        raise _reserved(_ANSWER_NAME)
    return variables | {
        ANSWER_FILE: answer,
        "MIRROR_NEURON_BODY_CONTENT_TYPE": content_type,
        "MIRROR_NEURON_BODY_CONTENT_ENCODING": content_encoding,
    }


def _write_new(path: str, name: str, data: bytes) -> None:
    """Write a file that does not exist yet. Without a file object: that took twice as long for a small message."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise _reserved(name) from None
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)


def _reserved(name: str) -> RunRefused:
    return RunRefused(f"an upload has the target {name!r}, which is reserved for a file of the runner")


def variables_of(request: RunRequest, files: Mapping[str, str], workdir: Path, cluster: str) -> dict[str, str]:
    """The variables that the runner sets; the config cannot override them. *cluster*: see `cluster_of`."""
    return {
        **files,
        "MIRROR_NEURON_AGENT_TYPE": request.agent_type,
        "MIRROR_NEURON_AGENT_TEMPLATE": request.template,
        "MIRROR_NEURON_JOB_ID": request.job_id,
        "MIRROR_NEURON_AGENT_ID": request.agent_id,
        "MIRROR_NEURON_WORKDIR": str(workdir),
        "MIRROR_NEURON_PYTHON": sys.executable,
        MARKER: f"{cluster}:{request.node_name}:{request.job_id}:{request.agent_id}",
    }


def environment_of(config: Mapping[str, Any], variables: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The whole environment of the command: `INHERITED`, `environment`, `pass_env`, and *variables* (also as `MN_*`).

    Later ones override earlier ones, so an entry of `environment` is the default of a variable that `pass_env` names.
    Raises RunRefused for a name in `pass_env` that the node does not pass.
    """
    given = config.get("environment") or {}
    names = config.get("pass_env") or []
    if not isinstance(given, Mapping):
        raise RunRefused("config.environment: must be an object")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RunRefused("config.pass_env: must be a list of variable names")
    for name, value in given.items():
        if not name or "=" in name or "\0" in name or (isinstance(value, str) and "\0" in value):
            raise RunRefused(
                f"config.environment: {name!r} cannot be set (a name is empty or holds `=`, or there is a NUL)"
            )
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment["PATH"] = _search_path(environment.get("PATH", os.defpath))
    environment |= {name: _text(value) for name, value in given.items()}
    environment |= _passed(names, settings)
    short = {name.replace(PREFIX, "MN_", 1): value for name, value in variables.items() if name != MARKER}
    return environment | short | dict(variables)


def _passed(names: Iterable[str], settings: Settings) -> dict[str, str]:
    """The variables of this process that `pass_env` names. Raises RunRefused for one that the node does not pass."""
    secrets = {url for url in (settings.redis_url, settings.broker_url) if url != without_password(url)}
    passed = {}
    for name in names:
        value = os.environ.get(name)
        if is_private(name) or any(secret in (value or "") for secret in secrets):
            raise RunRefused(f"config.pass_env: {name} belongs to the node and is never passed to a command")
        if name.startswith(_RUN_PREFIXES):
            continue  # the runner sets it
        if name not in INHERITED and not any(fnmatchcase(name, pattern) for pattern in settings.pass_env):
            raise RunRefused(f"config.pass_env: this node does not pass {name}; {PREFIX}PASS_ENV lists what it passes")
        if value is not None:
            passed[name] = value
    return passed


def words_of(config: Mapping[str, Any], variables: Mapping[str, str], paths: SandboxPaths) -> list[str]:
    """The arguments to execute: a list, or `bash -c` and a string.

    Placeholders are replaced in both, in a string with the quotes that the shell needs. Sandbox paths are mapped in
    both; in a list only at the beginning of a word. Other braces are left unchanged, and `${job_id}` in a string. The
    script of a shell in a list (`["sh", "-c", SCRIPT]`) is such a string.
    """
    command = config.get("command")
    if isinstance(command, str) and command.strip():
        return ["bash", "-c", _shell_text(command, variables, paths)]
    if not isinstance(command, list) or not command:
        raise RunRefused("config.command: must be a list of words or a string")
    words = []
    for number, word in enumerate(command):
        if isinstance(word, bool) or not isinstance(word, str | int | float):
            raise RunRefused(f"config.command[{number}]: must be a string")
        if number == _script_at(command):
            words.append(_shell_text(str(word), variables, paths))
            continue
        mapped = paths.word(str(word))
        words.append(_PLACEHOLDER.sub(lambda found: variables[f"MIRROR_NEURON_{found[1].upper()}"], mapped))
    if not words[0]:
        raise RunRefused("config.command[0]: must not be empty")
    return words


def _script_at(words: list[Any]) -> int:
    """The place of the script that a shell among *words* gets with `-c`; -1 if there is none."""
    for number, word in enumerate(words):
        if not isinstance(word, str) or os.path.basename(word) not in _SHELLS:
            continue
        place = number + 1
        while place < len(words) - 1 and str(words[place]).startswith(("-", "+")):
            letters = "" if str(words[place]).startswith("--") else str(words[place])[1:]
            place += 2 if "o" in letters.lower() else 1  # `-o` is followed by a name
            if "c" in letters:
                return place if place < len(words) else -1
    return -1


def _shell_text(text: str, variables: Mapping[str, str], paths: SandboxPaths) -> str:
    return substitute(paths.text(text), _IN_SHELL, partial(_values, variables))


def _values(variables: Mapping[str, str], found: re.Match[str]) -> tuple[str, str, str]:
    variable = f"{PREFIX}{found[1].upper()}"
    return variables[variable], f"${{{variable}}}", ""


def _search_path(path: str) -> str:
    """Put the folder of the worker's Python first in *path*.

    A worker may be started without its virtual environment activated; `python3` must still be the worker's.
    """
    folder = os.path.dirname(sys.executable)
    return os.pathsep.join((folder, *(entry for entry in path.split(os.pathsep) if entry != folder)))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else encode(value).decode()
