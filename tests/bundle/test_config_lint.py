"""Warnings about config keys without effect, and about priorities; the error for a sandbox policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.bundle.load import load
from mirrorneuron.errors import ManifestError
from mirrorneuron.limits import ALLOW_UNSANDBOXED

EXAMPLES = Path(__file__).parents[2] / "examples"


def manifest(agent_type: str, config: dict[str, Any], **node: Any) -> dict[str, Any]:
    return {
        "manifest_version": "1.0",
        "graph_id": "g",
        "entrypoints": ["a"],
        "nodes": [{"node_id": "a", "agent_type": agent_type, "config": config, **node}],
    }


def hints(agent_type: str, config: dict[str, Any], **node: Any) -> dict[str, str]:
    """Key -> message and hint of its warning."""
    needed: dict[str, dict[str, Any]] = {"executor": {"command": ["true"]}, "module": {"module": "json:C"}}
    required = needed.get(agent_type, {})
    found = load(manifest(agent_type, {**required, **config}, **node)).warnings
    prefix = "nodes[0].config."
    return {w.path.removeprefix(prefix): f"{w.message} ({w.hint})" for w in found if w.path.startswith(prefix)}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("retries", "max_attempts"),
        ("max_retries", "max_attempts"),
        ("timeout", "timeout_seconds"),
        ("timeout_ms", "timeout_seconds"),
        ("timeoutSeconds", "timeout_seconds"),
        ("backoff_ms", "retry_backoff_ms"),
        ("env", "environment"),
        ("cwd", "workdir"),
        ("maxAttempts", "max_attempts"),
        ("max_atempts", "max_attempts"),
        ("queue", "pool"),
        ("cmd", "command"),
    ],
)
def test_an_unknown_key_gets_the_nearest_key_or_the_key_that_it_stands_for(key: str, meant: str) -> None:
    assert hints("executor", {key: 1}) == {key: f'unknown key; not used (did you mean "{meant}"?)'}


def test_an_unknown_key_without_a_suggestion_gets_a_warning_too() -> None:
    for agent_type in ("executor", "router", "sensor"):
        assert hints(agent_type, {"image": 1}) == {"image": "unknown key; not used ()"}
    assert hints("aggregator", {"complete_after": 1, "x": 1}) == {"x": "unknown key; not used ()"}


def test_a_group_of_retry_settings_names_the_keys_that_replace_it() -> None:
    assert hints("executor", {"retry_policy": {}}) == {
        "retry_policy": "unknown key; not used (use max_attempts, retry_backoff_ms)"
    }


def test_a_synonym_of_a_key_that_works_on_other_agent_types_names_them() -> None:
    assert hints("router", {"retries": 3}) == {
        "retries": "unknown key; not used (max_attempts works on executor and module)"
    }


@pytest.mark.parametrize(
    ("agent_type", "key", "value", "works_on"),
    [
        ("router", "startup_delay_ms", 15_000, "executor and module"),
        ("router", "max_attempts", 5, "executor and module"),
        ("router", "pool", "gpu", "executor and module"),
        ("router", "complete_job", True, "aggregator and sensor and executor"),
        ("sensor", "timeout_seconds", 3, "executor and module"),
        ("sensor", "command", ["false"], "executor"),
        ("sensor", "uploads", [], "executor"),
        ("sensor", "emit_type", "x", "router"),
        ("executor", "module", "m:C", "module"),
        ("executor", "complete_after", 2, "aggregator and sensor"),
    ],
)
def test_a_known_key_without_effect_on_the_agent_type_names_those_where_it_works(
    agent_type: str, key: str, value: Any, works_on: str
) -> None:
    article = "an" if agent_type == "executor" else "a"
    assert hints(agent_type, {key: value}) == {key: f"has no effect on {article} {agent_type} (works on {works_on})"}
    assert hints(agent_type, {key: None}) == {}


def test_the_keys_of_a_module_belong_to_its_author_unless_they_are_nearly_those_of_the_runtime() -> None:
    own = {"retries": 3, "timeout": 1, "env": {}, "command": 1, "limit": 5, "model": "x", "comand": 1, "policy": "p"}
    assert hints("module", own) == {}
    message = "is not a key of the runtime; only the module itself can read it"
    assert hints("module", {"max_attempt": 3, "timeoutSeconds": 1}) == {
        "max_attempt": f'{message} (did you mean "max_attempts"?)',
        "timeoutSeconds": f'{message} (did you mean "timeout_seconds"?)',
    }


@pytest.mark.parametrize(
    ("agent_type", "config", "key"),
    [
        ("executor", {"batch_size": 5}, "batch_size"),
        ("module", {"batch_size": 5}, "batch_size"),
        ("executor", {"upload_as": "x"}, "upload_as"),
        ("executor", {"retry_backoff_ms": 5}, "retry_backoff_ms"),
        ("executor", {"retry_on": "any", "max_attempts": 1}, "retry_on"),
    ],
)
def test_a_key_that_another_key_turns_off_gets_a_warning(agent_type: str, config: dict[str, Any], key: str) -> None:
    assert list(hints(agent_type, config)) == [key]


def test_keys_with_effect_get_no_warning() -> None:
    assert hints("executor", {"batch_size": 5, "retry_backoff_ms": 5, "max_attempts": 2}, type="batch") == {}


def test_keys_of_a_node_that_are_only_kept_or_belong_into_its_config_get_a_warning() -> None:
    raw = manifest("executor", {"command": "true"}, retry_policy={"max_attempts": 5}, timeout_seconds=5, retries=1)
    assert {w.path: w.hint for w in load(raw).warnings} == {
        "nodes[0].retry_policy": "set max_attempts and retry_backoff_ms in config",
        "nodes[0].timeout_seconds": 'use "timeout_seconds" in config',
        "nodes[0].retries": 'use "max_attempts" in config',
    }
    assert load(manifest("executor", {"command": "true"}, tool_bindings=[], retry_policy=None)).warnings == ()


@pytest.mark.parametrize(
    "key", ["from", "gpu", "providers", "tty", "no_keep", "no_auto_providers", "remote", "ssh_key"]
)
def test_a_key_for_a_sandbox_gets_a_warning_by_name(key: str) -> None:
    found = hints("executor", {key: True, "runner_module": "host_local"})
    assert found == {key: "is ignored: commands run on the host, without a sandbox (remove it)"}


def test_a_sandbox_policy_is_an_error_unless_the_host_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_UNSANDBOXED, raising=False)
    raw = manifest("executor", {"command": "true", "policy": "policy.yaml"})
    with pytest.raises(ManifestError, match=r"nodes\[0\]\.config\.policy .*MIRROR_NEURON_ALLOW_UNSANDBOXED=1"):
        load(raw)
    assert [w.path for w in load(raw, allow_unsandboxed=True).warnings] == ["nodes[0].config.policy"]
    for runner in ("host_local", "MirrorNeuron.Runner.HostLocal"):
        assert list(hints("executor", {"policy": "p", "runner_module": runner})) == ["policy"]
    assert load(manifest("module", {"module": "json:C", "policy": "p"}))
    monkeypatch.setenv(ALLOW_UNSANDBOXED, "1")
    assert [w.path for w in load(raw).warnings] == ["nodes[0].config.policy"]
    with pytest.raises(ManifestError):
        load(raw, allow_unsandboxed=False)


def test_a_priority_of_initial_inputs_gets_one_warning_for_each_node() -> None:
    raw = manifest("router", {})
    for inputs in (
        {"a": {"priority": 1, "x": 2}},
        {"a": [{"envelope": {"priority": 5}, "body": 1}]},
        [{"priority": 1}],
    ):
        (warning,) = load({**raw, "initial_inputs": inputs}).warnings
        assert warning.path == "initial_inputs.a"
        assert warning.message == "1 of 1 have a priority, which has no effect yet"
    (warning,) = load({**raw, "initial_inputs": {"a": [{"priority": 1}, {"body": {"priority": 1}}, 5]}}).warnings
    assert warning.message == "1 of 3 have a priority, which has no effect yet"
    assert load({**raw, "initial_inputs": {"a": {"body": {"priority": 1}}}}).warnings == ()


@pytest.mark.parametrize("example", sorted(path.parent.name for path in EXAMPLES.glob("*/manifest.json")))
def test_the_examples_have_no_warnings(example: str) -> None:
    assert load(EXAMPLES / example).warnings == ()
