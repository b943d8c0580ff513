"""Warnings about keys without effect: unknown keys of `config`, known keys on the wrong agent type, and priorities."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mirrorneuron.bundle.manifest import AgentType, Manifest, Node, Template
from mirrorneuron.bundle.node_config import CONFIG_KEYS, SANDBOX_KEYS, article
from mirrorneuron.bundle.parse import below
from mirrorneuron.bundle.suggest import did_you_mean
from mirrorneuron.errors import Issue

#: key of `config` -> names that other tools use for it
_SYNONYMS: Final[dict[str, str]] = {
    "max_attempts": "attempts max_retries max_retry max_tries num_retries retries retry retry_count retry_limit tries",
    "retry_backoff_ms": (
        "backoff backoff_ms backoff_seconds default_retry_delay retry_backoff retry_delay retry_delay_ms"
        " retry_delay_seconds retry_interval retry_wait"
    ),
    "retry_on": "autoretry_for retry_for retry_if retry_when",
    "timeout_seconds": (
        "deadline execution_timeout max_runtime max_seconds run_timeout soft_time_limit time_limit timeout timeout_ms"
        " timeout_s timeout_sec"
    ),
    "startup_delay_ms": "countdown delay delay_ms delay_seconds initial_delay start_delay startup_delay",
    "environment": "env env_vars environ environment_variables envs variables vars",
    "pass_env": "env_from env_passthrough inherit_env pass_through_env passenv secrets",
    "workdir": "chdir cwd directory working_dir working_directory",
    "command": "args argv bash cmd exec run script shell",
    "uploads": "copy files inputs mounts payload payloads upload volumes",
    "pool": "queue queue_name worker_pool",
    "pool_slots": "concurrency cpus slots weight",
    "batch_size": "batch chunk_size chunksize max_batch",
    "runner_module": "executor runner",
    "complete_after": "count expect expected min_messages quorum threshold wait_for",
    "complete_on_message": "every_message",
    "complete_job": "complete finish_job final is_final",
    "log_level": "log log_lvl logging logging_level verbosity",
    "emit_type": "emit emits message_type out_type output_message_type output_type",
    "output_message_type": "emit emit_type emits message_type out_type output_type",
}
_RETRIES: Final = "max_attempts, retry_backoff_ms"  #: for an object that holds several settings of retries
_GROUPS: Final = {"retry_policy": _RETRIES, "retry_options": _RETRIES, "retry_config": _RETRIES}
_NEAR_OF_AUTHOR: Final = 0.9  #: similarity at which a module's own key counts as misspelt
_SEPARATORS: Final = re.compile(r"[^a-z0-9]")
#: keys of a node that are kept for other programs -> what to use instead
_KEPT: Final = {
    "tool_bindings": "",
    "retry_policy": "set max_attempts and retry_backoff_ms in config",
    "checkpoint_policy": "",
    "spawn_policy": "",
}


def _squeezed(word: str) -> str:
    """*word* without case and separators: `maxAttempts` and `max-attempts` are `maxattempts`."""
    return _SEPARATORS.sub("", word.lower())


def _other_names(keys: Mapping[str, Any]) -> dict[str, str]:
    names = {_squeezed(other): key for key in keys for other in _SYNONYMS.get(key, "").split()}
    return names | {_squeezed(key): key for key in keys}


_KNOWN: Final = {agent_type: tuple(keys) for agent_type, keys in CONFIG_KEYS.items()}
_NAMES: Final = {agent_type: _other_names(keys) for agent_type, keys in CONFIG_KEYS.items()}
_OWN_NAMES: Final = {_squeezed(key): key for key in CONFIG_KEYS[AgentType.MODULE]}  # a module may own the synonyms
#: key -> the agent types on which it has an effect
_WORKS_ON: Final[dict[str, str]] = {
    key: " and ".join(str(agent_type) for agent_type, keys in CONFIG_KEYS.items() if key in keys)
    for keys in CONFIG_KEYS.values()
    for key in keys
}


def keys_without_effect(node: Node, path: str) -> Iterator[Issue]:
    """Warnings about the keys of one node that do nothing. A module's own keys belong to its author."""
    for key, hint in _KEPT.items():
        if getattr(node, key):
            yield Issue(f"{path}.{key}", "is kept but has no effect", hint)
    own = node.agent_type is AgentType.MODULE
    for key, value in node.config.items():
        if key not in CONFIG_KEYS[node.agent_type] and not (value is None and key in _WORKS_ON):
            yield from _own(key, f"{path}.config") if own else _not_read(key, node.agent_type, f"{path}.config")
    yield from _without_effect_here(node, f"{path}.config")


def node_key_hint(key: str) -> str:
    """The hint for an unknown key of a node that is a key of `config`, or a synonym of one."""
    if _squeezed(key) in _GROUPS or key in _GROUPS:
        return f"use {_GROUPS[key]} in config"
    for names in _NAMES.values():
        if found := names.get(_squeezed(key)):
            return f'use "{found}" in config'
    return ""


def _own(key: str, path: str) -> Iterator[Issue]:
    meant = _OWN_NAMES.get(_squeezed(key))
    hint = f'did you mean "{meant}"?' if meant else did_you_mean(key, _KNOWN[AgentType.MODULE], _NEAR_OF_AUTHOR)
    if hint:
        yield Issue(below(path, key), "is not a key of the runtime; only the module itself can read it", hint)


def _not_read(key: str, agent_type: AgentType, path: str) -> Iterator[Issue]:
    where = below(path, key)
    if key in SANDBOX_KEYS:
        yield Issue(where, "is ignored: commands run on the host, without a sandbox", "remove it")
    elif key in _WORKS_ON:
        yield Issue(where, f"has no effect on {article(agent_type)}", f"works on {_WORKS_ON[key]}")
    elif key == "priority":
        yield Issue(where, "has no effect: messages are handled in the order in which they arrive")
    else:
        yield Issue(where, "unknown key; not used", _hint(key, agent_type))


def _hint(key: str, agent_type: AgentType) -> str:
    """The known key that *key* resembles or stands for; keys of the node's own agent type come first."""
    short = _squeezed(key)
    if key in _GROUPS and "max_attempts" in CONFIG_KEYS[agent_type]:
        return f"use {_GROUPS[key]}"
    if found := _NAMES[agent_type].get(short):
        return f'did you mean "{found}"?'
    if near := did_you_mean(key, _KNOWN[agent_type]):
        return near
    if key in _GROUPS:
        return f"max_attempts works on {_WORKS_ON['max_attempts']}"
    for names in _NAMES.values():
        if other := names.get(short):
            return f"{other} works on {_WORKS_ON[other]}"
    return ""


def _without_effect_here(node: Node, path: str) -> Iterator[Issue]:
    """Keys that this agent type reads, but that another key of the node turns off."""
    config = node.config
    if "batch_size" in config and "batch_size" in CONFIG_KEYS[node.agent_type] and node.type is not Template.BATCH:
        yield Issue(f"{path}.batch_size", f'has no effect with the template "{node.type}"', 'set type to "batch"')
    if node.agent_type is AgentType.EXECUTOR and "upload_as" in config and config.get("upload_path") is None:
        yield Issue(f"{path}.upload_as", "has no effect without upload_path", "use uploads with source and target")
    for key in ("retry_backoff_ms", "retry_on"):
        if key in config and key in CONFIG_KEYS[node.agent_type] and config.get("max_attempts", 1) == 1:
            yield Issue(f"{path}.{key}", "has no effect while max_attempts is 1", "set max_attempts to 2 or more")


def priorities(manifest: Manifest) -> Iterator[Issue]:
    """One warning for each node whose initial inputs have a priority."""
    for name, payloads in manifest.initial_inputs.items():
        if count := sum(map(_has_priority, payloads)):
            message = f"{count} of {len(payloads)} have a priority, which has no effect yet"
            yield Issue(
                below("initial_inputs", name), message, "messages are handled in the order in which they arrive"
            )


def _has_priority(payload: Any) -> bool:
    if not isinstance(payload, Mapping):
        return False
    envelope = payload.get("envelope")
    return "priority" in payload or (isinstance(envelope, Mapping) and "priority" in envelope)
