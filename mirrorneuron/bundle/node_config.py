"""The keys of a node's `config` that the runtime reads: one table for validation and for the manifest reference.

Of a module's config the runtime reads only `MODULE_KEYS`; all other keys belong to the module's author. On the other
agent types a key that is not in the table has no effect, and `config_lint` warns about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mirrorneuron.bundle.config_checks import (
    Check,
    boolean,
    command,
    environment,
    log_level,
    pass_env,
    pool,
    python_class,
    sandbox_path,
    seconds,
    text,
    whole,
    word,
)
from mirrorneuron.bundle.manifest import DEFAULT_BATCH, EXECUTOR_RESULT, SENSOR_READY, AgentType
from mirrorneuron.errors import Issue
from mirrorneuron.limits import ALLOW_UNSANDBOXED
from mirrorneuron.message import ENCODINGS
from mirrorneuron.pools import DEFAULT_POOL

HOST_LOCAL: Final = "host_local"  # the default runner of an executor
RUNNERS: Final = (HOST_LOCAL, "MirrorNeuron.Runner.HostLocal")
RETRY_ON: Final = ("any", "transient")
#: keys for the sandbox that is the default runner of the Elixir implementation; `host_local` reads none of them
SANDBOX_KEYS: Final = frozenset(
    {
        "auto_providers",
        "from",
        "gpu",
        "no_auto_providers",
        "no_keep",
        "no_tty",
        "policy",
        "providers",
        "remote",
        "sandbox_cli",
        "ssh_key",
        "tty",
    }
)


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key of `config`: how validation checks it, and what the manifest reference says about it."""

    check: Check | None  #: None for the keys that `uploads` checks, because it needs the payloads folder
    type: str  #: in Markdown, like `whole number, at least 1`
    default: str  #: in Markdown; "" means that the key is absent by default
    effect: str  #: one line of Markdown


_FOR_EVER: Final = "no limit"
_PARTS: Final = "list of `{source, target}`"
_COMMAND: Final = (
    "The command. A list runs without a shell; a string is run by `bash -c`. `{input_file}`, `{context_file}`,"
    " `{message_file}`, `{body_file}`, `{answer_file}`, `{workdir}`, `{job_id}`, `{agent_id}` and `{python}` (the"
    " worker's Python) are filled in, in a string and in the script of `sh -c` with the quotes that the shell needs."
)
_WARM_PYTHON: Final = (
    "Run a command `python3 SCRIPT`, `python3 -m MODULE` or `python3 -c TEXT` in a copy of an interpreter that has"
    " started already. It differs from a plain one only in its parent process, in a hash seed that it shares with"
    " others, and in a recursion limit that is reached a few levels earlier. Commands for which more would differ run"
    " plainly: with options of Python, `PYTHON...` variables, or virtual environments other than the node's."
)
_COMPLETE_AFTER: Final = ConfigKey(
    whole(1), "whole number, at least 1", "", "Number of messages to collect before the aggregator fires."
)
_COMPLETE_JOB: Final = ConfigKey(
    boolean, "boolean", "`false`", "Complete the job with the body that the executor emits after a run."
)
_RUN_KEYS: Final[dict[str, ConfigKey]] = {
    "max_attempts": ConfigKey(
        whole(1), "whole number, at least 1", "`1`", "Attempts for one message or batch, the first one included."
    ),
    "retry_backoff_ms": ConfigKey(
        whole(0),
        "whole number of milliseconds",
        "`500`",
        "Delay before the second attempt; doubles with each further attempt, up to one hour.",
    ),
    "retry_on": ConfigKey(
        word(RETRY_ON),
        "`any` or `transient`",
        "`any`",
        "Failures that are retried: any, or only transient ones (time-out, killed by a signal, exit code 75).",
    ),
    "retry_elsewhere": ConfigKey(
        boolean,
        "boolean",
        "`false`",
        "Make a failed attempt again on each other node of the pool before it counts: a node may lack a tool.",
    ),
    "startup_delay_ms": ConfigKey(
        whole(0), "whole number of milliseconds", "`0`", "Delay before the agent's first run in a job."
    ),
    "timeout_seconds": ConfigKey(
        seconds, "number of seconds, more than 0", _FOR_EVER, "A run that takes longer is killed and counts as failed."
    ),
    "pool": ConfigKey(pool, "string", f"`{DEFAULT_POOL}`", "Pool in which the agent runs."),
    "pool_slots": ConfigKey(whole(1), "whole number, at least 1", "`1`", "Slots of the pool that one run takes."),
    "batch_size": ConfigKey(
        whole(1),
        "whole number, at least 1",
        f"`{DEFAULT_BATCH}`",
        "Messages of one run; for the template `batch` only.",
    ),
}
_UPLOADS: Final[dict[str, ConfigKey]] = {
    "upload_path": ConfigKey(None, "path in `payloads/`", "", "File or folder that is copied into the run folder."),
    "upload_as": ConfigKey(None, "path", "name of the source", "Target of `upload_path`."),
    "upload_paths": ConfigKey(None, _PARTS, "", "More files and folders to copy into the run folder."),
    "uploads": ConfigKey(None, _PARTS, "", "The same as `upload_paths`; both may be given."),
}
#: agent type -> its keys in the order of the manifest reference. Validation and the reference read this table.
CONFIG_KEYS: Final[dict[AgentType, dict[str, ConfigKey]]] = {
    AgentType.ROUTER: {
        "emit_type": ConfigKey(
            text, "string", "type of the incoming message", "Type of the message that the router emits."
        ),
    },
    AgentType.AGGREGATOR: {
        "complete_after": _COMPLETE_AFTER,
        "complete_on_message": ConfigKey(
            boolean, "boolean", "`false`", "Fire at every message; `complete_after` is then not used."
        ),
        "output_message_type": ConfigKey(
            text,
            "string",
            "",
            "Type of the message that the aggregator emits when it fires; without it, it emits none.",
        ),
        "complete_job": ConfigKey(
            boolean,
            "boolean",
            "`true` without `output_message_type`, else `false`",
            "Complete the job with `{messages, count, last_message}` when the aggregator fires.",
        ),
    },
    AgentType.SENSOR: {
        "output_message_type": ConfigKey(
            text, "string", f"`{SENSOR_READY}`", "Type of the message that the sensor emits for each incoming one."
        ),
        "complete_job": ConfigKey(
            boolean,
            "boolean",
            "`false`",
            "Complete the job with `{count, last_message}` after `complete_after` messages.",
        ),
        "complete_after": ConfigKey(
            whole(1), "whole number, at least 1", "`1`", "Number of messages after which `complete_job` takes effect."
        ),
    },
    AgentType.EXECUTOR: {
        "command": ConfigKey(command, "list of strings, or string", "required", _COMMAND),
        "output_message_type": ConfigKey(
            text,
            "string or `null`",
            f"`{EXECUTOR_RESULT}`",
            "Type of the result message; `null` emits no result message.",
        ),
        "complete_job": _COMPLETE_JOB,
        **_UPLOADS,
        "workdir": ConfigKey(
            sandbox_path, "path", "value of `sandbox_upload_path`", "Folder in which the command runs."
        ),
        "sandbox_upload_path": ConfigKey(
            sandbox_path,
            "path",
            "`/sandbox/job`",
            "Path by which `workdir`, targets and `command` name the run folder.",
        ),
        "environment": ConfigKey(
            environment, "object of strings and numbers", "`{}`", "Environment variables of the command."
        ),
        "pass_env": ConfigKey(
            pass_env,
            "list of names",
            "`[]`",
            "Environment variables that the command gets from the worker; they override `environment`.",
        ),
        "content_type": ConfigKey(
            text, "string", "that of the message", "Content type by which the body is written to `{body_file}`."
        ),
        "content_encoding": ConfigKey(
            word(ENCODINGS), "`identity` or `gzip`", "that of the message", "Encoding of `{body_file}`."
        ),
        "runner_module": ConfigKey(
            word(RUNNERS), " or ".join(f"`{name}`" for name in RUNNERS), f"`{HOST_LOCAL}`", "Runner of the command."
        ),
        "warm_python": ConfigKey(boolean, "boolean", "`MIRROR_NEURON_WARM_PYTHON` of the node", _WARM_PYTHON),
        "name_prefix": ConfigKey(text, "string", "`host-local`", "Start of `sandbox_name` in the result."),
        **_RUN_KEYS,
    },
    AgentType.MODULE: {
        "module": ConfigKey(
            python_class, 'string `"package.module:Class"`', "required", "Class of the agent, a subclass of `Agent`."
        ),
        "module_source": ConfigKey(
            text, "path in `payloads/`", "", "File or folder that is put on the import path for this bundle."
        ),
        "log_level": ConfigKey(
            log_level,
            "name of a level, such as `DEBUG`",
            "`INFO`",
            "Level of the log records that go to `mn logs`; a level that the module itself sets has precedence.",
        ),
        "commit_alone": ConfigKey(
            boolean,
            "boolean",
            "`false`",
            "Commit each run by itself. Otherwise short runs of modules share a commit, and a worker that dies within"
            " these milliseconds repeats them.",
        ),
        **_RUN_KEYS,
    },
}
UPLOAD_KEYS: Final = tuple(_UPLOADS)
MODULE_KEYS: Final[dict[str, Check]] = {
    name: key.check for name, key in CONFIG_KEYS[AgentType.MODULE].items() if key.check
}
#: checked for every agent type but `module`: a key must have a valid value even if the agent type does not read it
KEYS: Final[dict[str, Check]] = {
    name: key.check
    for agent_type, keys in CONFIG_KEYS.items()
    for name, key in keys.items()
    if agent_type is not AgentType.MODULE and key.check
}
REQUIRED: Final = {AgentType.EXECUTOR: "command", AgentType.MODULE: "module"}


def problems(
    agent_type: AgentType | None, config: dict[str, Any], path: str, allow_unsandboxed: bool
) -> Iterator[Issue]:
    """Every issue in one node's config. If the agent type is unknown (None), the config is checked as a module's.

    An executor that asks for a sandbox policy has an issue unless *allow_unsandboxed*.
    """
    checks = MODULE_KEYS if agent_type in (AgentType.MODULE, None) else KEYS
    for key, value in config.items():
        if value is not None and key in checks:
            yield from checks[key](value, f"{path}.{key}")
    unsandboxed = allow_unsandboxed or config.get("runner_module") is not None
    if agent_type is AgentType.EXECUTOR and config.get("policy") not in (None, "") and not unsandboxed:
        message = "asks for a sandbox, and this runner has none: the command would run on the host without the policy"
        hint = f'set runner_module to "{HOST_LOCAL}" to accept that, or {ALLOW_UNSANDBOXED}=1 for all bundles'
        yield Issue(f"{path}.policy", message, hint)
    required = REQUIRED.get(agent_type) if agent_type else None
    if required and config.get(required) is None:
        example = '"package.module:Class"' if required == "module" else '["python3", "{workdir}/main.py"]'
        yield Issue(f"{path}.{required}", f"is required for {article(agent_type)}", f"write it like {example}")


def without_nulls(agent_type: AgentType, config: dict[str, Any]) -> dict[str, Any]:
    """*config* without the known keys that are null, because null counts as absent.

    Exception: an executor's `output_message_type` of null is kept; such an executor emits no result.
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
