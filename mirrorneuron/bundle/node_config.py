"""The keys of a node's `config` that the runtime reads, and what may stand in them.

All other keys belong to the agent's author. Of a module's config the runtime reads `MODULE_KEYS` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from mirrorneuron.bundle.manifest import AgentType
from mirrorneuron.bundle.parse import below, kind, shown
from mirrorneuron.bundle.suggest import one_of
from mirrorneuron.errors import Issue
from mirrorneuron.limits import MOST
from mirrorneuron.message import ENCODINGS
from mirrorneuron.pools import pool_problem

Check = Callable[[Any, str], Iterator[Issue]]

HOST_LOCAL: Final = "host_local"  # the runner of an executor that names none
RUNNERS: Final = (HOST_LOCAL, "MirrorNeuron.Runner.HostLocal")
RETRY_ON: Final = ("any", "transient")

_CLASS: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def whole(least: int) -> Check:
    def check(value: Any, path: str) -> Iterator[Issue]:
        if isinstance(value, bool) or not isinstance(value, int):
            yield Issue(path, f"must be a whole number, not {shown(value)}")
        elif value < least:
            yield Issue(path, f"must be {least} or more, not {shown(value)}")
        elif value > MOST:
            yield Issue(path, f"must be {MOST} or less, not {shown(value)}")

    return check


def seconds(value: Any, path: str) -> Iterator[Issue]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield Issue(path, f"must be a number of seconds, not {shown(value)}")
    elif not 0 < value <= MOST // 1000:
        yield Issue(path, f"must be more than 0 and at most {MOST // 1000} seconds, not {shown(value)}")


def boolean(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, bool):
        yield Issue(path, f"must be true or false, not {kind(value)}")


def text(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, str):
        yield Issue(path, f"must be a string, not {kind(value)}")
    elif not value:
        yield Issue(path, "must not be empty")
    elif "\0" in value:
        yield Issue(path, "must not hold a NUL character")


def sandbox_path(value: Any, path: str) -> Iterator[Issue]:
    yield from text(value, path)
    if isinstance(value, str) and ".." in value.split("/"):
        yield Issue(path, f"{shown(value)} leads out of the run folder", "remove the `..`")


def word(choices: tuple[str, ...]) -> Check:
    def check(value: Any, path: str) -> Iterator[Issue]:
        if not isinstance(value, str):
            yield Issue(path, f"must be a string, not {kind(value)}", f"one of: {', '.join(choices)}")
        elif value not in choices:
            yield Issue(path, f"{shown(value)} is not known", one_of(value, choices))

    return check


def pool(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, str):
        yield Issue(path, f"must be a string, not {kind(value)}")
        return
    problem, hint = pool_problem(value)
    if problem:
        yield Issue(path, f"{shown(value)} {problem}", hint)


def command(value: Any, path: str) -> Iterator[Issue]:
    if isinstance(value, str):
        if not value.strip():
            yield Issue(path, "must not be empty")
        else:
            yield from text(value, path)
    elif not isinstance(value, list):
        yield Issue(path, f"must be a list of strings or a string, not {kind(value)}")
    elif not value:
        yield Issue(path, "must not be empty")
    else:
        yield from _words(value, path)
        if value[0] == "":
            yield Issue(below(path, 0), "must not be empty")


def _words(value: list[Any], path: str) -> Iterator[Issue]:
    for index, item in enumerate(value):
        if not isinstance(item, str):
            hint = f'write "{item}"' if isinstance(item, int | float) and not isinstance(item, bool) else ""
            yield Issue(below(path, index), f"must be a string, not {kind(item)}", hint)
        elif "\0" in item:
            yield Issue(below(path, index), "must not hold a NUL character")


def environment(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, dict):
        yield Issue(path, f"must be an object, not {kind(value)}")
        return
    for name, given in value.items():
        where = below(path, name)
        if not _is_variable(name):
            yield Issue(where, f"{shown(name)} cannot be the name of a variable")
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            yield Issue(where, f"must be a string or a number, not {kind(given)}")
        elif isinstance(given, str) and "\0" in given:
            yield Issue(where, "must not hold a NUL character")


def pass_env(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, list):
        yield Issue(path, f"must be a list of names, not {kind(value)}")
        return
    for index, name in enumerate(value):
        if not isinstance(name, str):
            yield Issue(below(path, index), f"must be a string, not {kind(name)}")
        elif not _is_variable(name):
            yield Issue(below(path, index), f"{shown(name)} cannot be the name of a variable")


def _is_variable(name: str) -> bool:
    return bool(name) and "=" not in name and "\0" not in name


def python_class(value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, str) or not _CLASS.fullmatch(value):
        yield Issue(path, f"{shown(value)} names no Python class", 'like "package.module:Class"')


_RUN_KEYS: Final[dict[str, Check]] = {
    "max_attempts": whole(1),
    "retry_backoff_ms": whole(0),
    "retry_on": word(RETRY_ON),
    "startup_delay_ms": whole(0),
    "timeout_seconds": seconds,
    "pool": pool,
    "pool_slots": whole(1),
    "batch_size": whole(1),
}
MODULE_KEYS: Final[dict[str, Check]] = {**_RUN_KEYS, "module": python_class, "module_source": text}
KEYS: Final[dict[str, Check]] = {
    **_RUN_KEYS,
    "complete_after": whole(1),
    "complete_on_message": boolean,
    "complete_job": boolean,
    "emit_type": text,
    "output_message_type": text,
    "runner_module": word(RUNNERS),
    "command": command,
    "environment": environment,
    "pass_env": pass_env,
    "workdir": sandbox_path,
    "sandbox_upload_path": sandbox_path,
    "name_prefix": text,
    "content_type": text,
    "content_encoding": word(ENCODINGS),
}
#: for "did you mean" alone; what stands in these is checked in `uploads`
UPLOAD_KEYS: Final = ("upload_path", "upload_as", "upload_paths", "uploads")
REQUIRED: Final = {AgentType.EXECUTOR: "command", AgentType.MODULE: "module"}


def problems(agent_type: AgentType | None, config: dict[str, Any], path: str) -> Iterator[Issue]:
    """Everything wrong in one node's config. An agent type of None (it could not be read) is taken for a module."""
    checks = MODULE_KEYS if agent_type in (AgentType.MODULE, None) else KEYS
    for key, value in config.items():
        if value is not None and key in checks:
            yield from checks[key](value, f"{path}.{key}")
    required = REQUIRED.get(agent_type) if agent_type else None
    if required and config.get(required) is None:
        hint = 'like "package.module:Class"' if required == "module" else 'like ["python3", "{workdir}/main.py"]'
        yield Issue(f"{path}.{required}", f"is required of {article(agent_type)}", hint)


def without_nulls(agent_type: AgentType, config: dict[str, Any]) -> dict[str, Any]:
    """*config* without the known keys that are null: they are as good as absent.

    One null means something and stays: an executor whose `output_message_type` is null emits no result.
    """
    if None not in config.values():
        return config
    known = {*(MODULE_KEYS if agent_type is AgentType.MODULE else (*KEYS, *UPLOAD_KEYS))}
    if agent_type is AgentType.EXECUTOR:
        known.discard("output_message_type")
    return {key: value for key, value in config.items() if value is not None or key not in known}


def article(agent_type: AgentType | None) -> str:
    """`an executor`, `a router`."""
    return f"{'an' if str(agent_type)[0] in 'ae' else 'a'} {agent_type}"
