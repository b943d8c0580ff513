"""Issues of manifests: the path, the message and the hint of each."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mirrorneuron.bundle import start_check
from mirrorneuron.bundle.load import load
from mirrorneuron.errors import Issue, ManifestError

GOOD: dict[str, Any] = {
    "manifest_version": "1.0",
    "graph_id": "review",
    "entrypoints": ["ingress"],
    "nodes": [
        {"node_id": "ingress", "agent_type": "router", "config": {"emit_type": "work"}},
        {"node_id": "worker", "agent_type": "executor", "config": {"command": ["true"]}},
        {"node_id": "reviewer", "agent_type": "aggregator", "config": {"complete_after": 1}},
    ],
    "edges": [
        {"from_node": "ingress", "to_node": "worker", "message_type": "work"},
        {"from_node": "worker", "to_node": "reviewer", "message_type": "executor_result"},
    ],
}
ABSENT = object()


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """GOOD with the values at paths like `nodes.1.config` replaced, or removed where the value is ABSENT."""
    manifest = copy.deepcopy(GOOD)
    for path, value in changes:
        *way, last = (int(key) if key.isdigit() else key for key in path.split("."))
        at: Any = manifest
        for key in way:
            at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
        if value is ABSENT:
            del at[last]
        else:
            at[last] = value
    return manifest


def issues(manifest: Any) -> tuple[Issue, ...]:
    with pytest.raises(ManifestError) as caught:
        load(manifest)
    return caught.value.issues


def only_issue(*changes: tuple[str, Any]) -> Issue:
    found = issues(changed(*changes))
    assert len(found) == 1, found
    return found[0]


def test_the_manifest_that_these_tests_change_is_valid() -> None:
    assert load(GOOD).warnings == ()


@pytest.mark.parametrize("key", ["manifest_version", "graph_id", "nodes"])
def test_a_missing_required_key_is_an_issue_at_its_name(key: str) -> None:
    assert only_issue((key, ABSENT)) == Issue(key, "is required")
    assert only_issue((key, None)) == Issue(key, "is required")


@pytest.mark.parametrize("key", ["from_node", "to_node", "message_type"])
def test_a_missing_key_of_an_edge_is_an_issue_at_the_edge(key: str) -> None:
    subject = 'edge "worker" -> "reviewer"' if key == "message_type" else ""
    assert only_issue((f"edges.1.{key}", ABSENT)) == Issue(f"edges[1].{key}", "is required", subject=subject)


def crowd(entrypoints: int, inputs: Any) -> dict[str, Any]:
    nodes = [{"node_id": f"n{number}", "agent_type": "router"} for number in range(entrypoints)]
    names = [node["node_id"] for node in nodes]
    return {**GOOD, "nodes": nodes, "edges": [], "entrypoints": names, "initial_inputs": inputs}


def test_too_many_initial_messages_are_an_issue() -> None:
    """Each input of a list goes to every entrypoint, so that the number of messages is a product."""
    assert load(crowd(1_000, [{}] * 1_000))
    (issue,) = issues(crowd(1_001, [{}] * 1_000))
    assert issue.path == "initial_inputs"
    assert issue.message == "would make 1001000 messages; at most 1000000 are allowed"
    assert "every entrypoint" in issue.hint


def test_initial_messages_are_counted_over_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_check, "MAX_SEEDS", 3)
    assert load(crowd(2, {"n0": [{}, {}]})), "the other entrypoint gets an empty one"
    (issue,) = issues(crowd(2, {"n0": [{}, {}], "n1": [{}, {}]}))
    assert issue.message == "would make 4 messages; at most 3 are allowed"


def test_a_missing_key_of_a_node_is_an_issue_at_the_node() -> None:
    assert Issue("nodes[1].node_id", "is required") in issues(changed(("nodes.1.node_id", ABSENT)))
    assert only_issue(("nodes.0.agent_type", ABSENT)) == Issue(
        "nodes[0].agent_type", "is required", subject='node "ingress"'
    )


@pytest.mark.parametrize(
    ("path", "value", "where", "says"),
    [
        ("manifest_version", "2.0", "manifest_version", '"2.0" is not supported'),
        ("manifest_version", 1.0, "manifest_version", "1.0 is not supported"),
        ("graph_id", 7, "graph_id", "must be a string, not a number"),
        ("graph_id", "", "graph_id", "must not be empty"),
        ("graph_id", "a\nb", "graph_id", "must not contain control characters"),
        ("job_name", [], "job_name", "must be a string, not a list"),
        ("daemon", "yes", "daemon", "must be true or false, not a string"),
        ("long_lived", 1, "long_lived", "must be true or false, not a number"),
        ("metadata", [], "metadata", "must be an object, not a list"),
        ("entrypoints", 3, "entrypoints", "must be a list of node ids, not a number"),
        ("entrypoints", "ingres", "entrypoints", 'no node "ingres"'),
        ("entrypoints", ["ingress", "x"], "entrypoints[1]", 'no node "x"'),
        ("entrypoints", [{}], "entrypoints[0]", "must be a node id, not an object"),
        ("entrypoints", [], "entrypoints", "the graph has no entrypoint"),
        ("initial_inputs", 3, "initial_inputs", "must be an object or a list, not a number"),
        ("initial_inputs", {"x y": {}}, 'initial_inputs["x y"]', 'no node "x y"'),
        ("initial_inputs", {"ingress": {"headers": 3}}, "initial_inputs.ingress", "headers must be an object"),
        ("initial_inputs", {"ingress": [{}, {"envelope": 1}]}, "initial_inputs.ingress[1]", "envelope must be an"),
        ("initial_inputs", [{"ttl_ms": -1}], "initial_inputs[0]", "ttl_ms must be a number of 0 or more"),
        ("nodes.0", 3, "nodes[0]", "must be an object, not a number"),
        ("nodes.0.node_id", "a{b}", "nodes[0].node_id", "must not contain control characters, { or }"),
        ("nodes.0.node_id", "-a", "nodes[0].node_id", "must not begin with -"),
        ("nodes.0.node_id", "a\tb", "nodes[0].node_id", "must not contain control characters, { or }"),
        ("nodes.0.node_id", "n" * 201, "nodes[0].node_id", "at most 200 characters, not 201"),
        ("nodes.0.agent_type", "ruoter", "nodes[0].agent_type", 'unknown agent_type "ruoter"'),
        ("nodes.0.agent_type", [], "nodes[0].agent_type", "must be a string, not a list"),
        ("nodes.0.type", "reduce", "nodes[0].type", 'template "reduce" is not allowed for a router'),
        ("nodes.2.type", "map", "nodes[2].type", 'template "map" is not allowed for an aggregator'),
        ("nodes.1.type", "batched", "nodes[1].type", 'unknown type "batched"'),
        ("nodes.1.role", 4, "nodes[1].role", "must be a string, not a number"),
        ("nodes.0.config", [], "nodes[0].config", "must be an object, not a list"),
        ("edges", {}, "edges", "must be a list, not an object"),
        ("edges", True, "edges", "must be a list, not a boolean"),
        ("edges", 5, "edges", "must be a list, not a number"),
        ("edges.0", "x", "edges[0]", "must be an object, not a string"),
        ("edges.0.to_node", "workr", "edges[0].to_node", 'no node "workr"'),
        ("edges.0.from_node", 5, "edges[0].from_node", "must be a string, not a number"),
        ("edges.0.message_type", "", "edges[0].message_type", "must not be empty"),
        ("edges.0.routing_mode", "firstmatch", "edges[0].routing_mode", 'unknown routing_mode "firstmatch"'),
        ("edges.0.conditions", "body.x", "edges[0].conditions", "must be an object, not a string"),
        ("edges.0.conditions", {"expr": 1}, "edges[0].conditions.expr", "must be a string, not a number"),
        ("edges.0.conditions", {"expr": "body.["}, "edges[0].conditions.expr", "Incomplete expression"),
        ("edges.0.conditions", {"expr": "lengthh(body)"}, "edges[0].conditions.expr", "unknown function lengthh()"),
        ("policies", [], "policies", "must be an object, not a list"),
        ("policies.recovery_mode", "restart", "policies.recovery_mode", 'unknown recovery_mode "restart"'),
        ("policies.on_idle", "stop", "policies.on_idle", 'unknown on_idle "stop"'),
        ("policies.job_timeout_ms", 0, "policies.job_timeout_ms", "must be 1 or more, not 0"),
        ("policies.job_timeout_ms", 1.5, "policies.job_timeout_ms", "must be a whole number, not 1.5"),
        ("policies.idle_timeout_ms", True, "policies.idle_timeout_ms", "must be a whole number, not True"),
        ("policies.max_agent_restart_attempts", -1, "policies.max_agent_restart_attempts", "must be 0 or more"),
        ("policies.placement_policy", "", "policies.placement_policy", "must not be empty"),
    ],
)
def test_a_wrong_value_is_one_issue_at_its_path(path: str, value: Any, where: str, says: str) -> None:
    found = issues(changed((path, value)))
    assert any(issue.path == where and says in issue.message for issue in found), found


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, bad) for key in ("max_attempts", "pool_slots", "batch_size", "complete_after") for bad in (0, -1, 1.5, "3")]
    + [(key, bad) for key in ("retry_backoff_ms", "startup_delay_ms") for bad in (-1, 0.5, True, 10**13)]
    + [("timeout_seconds", bad) for bad in (0, -0.1, "1", True)]
    + [("retry_on", "transiet"), ("retry_on", 3), ("runner_module", "docker"), ("complete_job", "yes")]
    + [("pool", bad) for bad in ("", "a b", "x" * 65, 3, "light")]
    + [("output_message_type", ""), ("output_message_type", 3), ("workdir", []), ("complete_on_message", 1)]
    + [("command", []), ("command", ""), ("command", " "), ("command", {}), ("command", 3)]
    + [("workdir", "a/../.."), ("sandbox_upload_path", "/sandbox/.."), ("content_encoding", "br")]
    + [("environment", []), ("pass_env", "HOME"), ("upload_as", "../x"), ("uploads", {})],
)
def test_a_bad_config_value_is_one_issue_at_its_key(key: str, value: Any) -> None:
    found = issues(changed((f"nodes.1.config.{key}", value)))
    assert [issue.path for issue in found] == [f"nodes[1].config.{key}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeout_seconds", 0.25),
        ("retry_backoff_ms", 0),
        ("pool", "gpu-2.a_b"),
        ("runner_module", "MirrorNeuron.Runner.HostLocal"),
        ("command", "echo hello"),
        ("environment", {"A": "x", "B": 1, "C": 0.5}),
        ("pass_env", ["TOKEN", "MN_JOB_ID", "MIRROR_NEURON_INPUT_FILE"]),
        ("max_attempts", None),
        ("tty", object.__name__),
    ],
)
def test_a_valid_config_value_is_not_an_issue(key: str, value: Any) -> None:
    load(changed((f"nodes.1.config.{key}", value)))


def test_the_members_of_a_command_and_an_environment_are_checked_one_by_one() -> None:
    config = {"command": ["", 1, None, "a\0"], "environment": {"A=B": "x", "OK": True}, "pass_env": ["", 3]}
    assert {issue.path for issue in issues(changed(("nodes.1.config", config)))} == {
        "nodes[1].config.command[0]",
        "nodes[1].config.command[1]",
        "nodes[1].config.command[2]",
        "nodes[1].config.command[3]",
        'nodes[1].config.environment["A=B"]',
        "nodes[1].config.environment.OK",
        "nodes[1].config.pass_env[0]",
        "nodes[1].config.pass_env[1]",
    }


@pytest.mark.parametrize(
    "name", ["MIRROR_NEURON_REDIS_URL", "MIRROR_NEURON_NEW", "MN_TOKEN", "CELERY_BROKER_URL", "FLOWER_BASIC_AUTH"]
)
def test_variables_of_the_node_cannot_be_passed(name: str) -> None:
    (found,) = issues(changed(("nodes.1.config.pass_env", ["TOKEN", name])))
    assert found.path == "nodes[1].config.pass_env[1]"
    assert "never passed" in found.message


def test_an_executor_needs_a_command() -> None:
    assert only_issue(("nodes.1.config", ABSENT)).path == "nodes[1].config.command"
    assert only_issue(("nodes.1.config.command", None)).message == "is required for an executor"


@pytest.mark.parametrize("given", [None, "", 3, "pkg.mod", "pkg:", ":Class", "a b:Class", "pkg.mod:Class:x"])
def test_a_module_needs_a_class(given: Any) -> None:
    manifest = changed(("nodes.1.agent_type", "module"), ("nodes.1.config", {"module": given}))
    assert [issue.path for issue in issues(manifest)] == ["nodes[1].config.module"]


def test_keys_of_other_agent_types_are_free_in_the_config_of_a_module() -> None:
    """Validation checks only the keys that the runtime reads from a module's config."""
    config = {"module": "pkg.mod:Class", "command": 3, "environment": "production", "complete_after": "never"}
    load(changed(("nodes.1.agent_type", "module"), ("nodes.1.config", config)))


def test_a_duplicate_node_id_is_an_issue_at_the_second_node() -> None:
    found = issues(changed(("nodes.2.node_id", "worker")))
    assert found[0] == Issue(
        "nodes[2].node_id", 'duplicate node_id "worker" (also nodes[1])', "rename one of the nodes"
    )


def test_an_issue_with_a_misspelt_name_has_a_suggestion() -> None:
    assert only_issue(("edges.0.to_node", "workr")).hint == 'did you mean "worker"?'
    assert only_issue(("nodes.0.agent_type", "ruoter")).hint == 'did you mean "router"?'
    assert only_issue(("policies.on_idle", "stop")).hint == "one of: wait, complete, fail"
    assert only_issue(("nodes.1.config.retry_on", "transiet")).hint == 'did you mean "transient"?'


def test_daemon_and_long_lived_must_agree() -> None:
    assert only_issue(("daemon", False), ("long_lived", True)).path == "long_lived"
    assert load(changed(("daemon", True), ("long_lived", True))).manifest.daemon is True


def test_all_issues_are_found_at_once() -> None:
    """An invalid node does not hide issues of the others, and the graph is checked with the valid parts."""
    found = issues(
        changed(
            ("graph_id", 3),
            ("nodes.0.agent_type", "x"),
            ("nodes.1.config.command", []),
            ("nodes.1.config.max_attempts", -1),
            ("edges.0.to_node", "nowhere"),
            ("edges.1.conditions", {"expr": "("}),
            ("edges.1.message_type", ABSENT),
            ("entrypoints", ["nobody"]),
            ("policies.on_idle", 3),
        )
    )
    assert {issue.path for issue in found} == {
        "graph_id",
        "nodes[0].agent_type",
        "nodes[1].config.command",
        "nodes[1].config.max_attempts",
        "edges[0].to_node",
        "edges[1].conditions.expr",
        "edges[1].message_type",
        "entrypoints[0]",
        "policies.on_idle",
    }


def test_edges_to_an_invalid_node_are_not_issues() -> None:
    """An invalid node still has an id that edges may name."""
    assert only_issue(("nodes.1.role", 3)).path == "nodes[1].role"


def test_a_manifest_without_nodes_has_one_issue_and_none_for_each_edge() -> None:
    assert [issue.path for issue in issues(changed(("nodes", [])))] == ["nodes"]


def test_the_error_prints_one_issue_a_line() -> None:
    with pytest.raises(ManifestError) as caught:
        load(changed(("graph_id", 3), ("edges.0.to_node", "workr")))
    assert str(caught.value).splitlines() == [
        "graph_id: must be a string, not a number",
        'edges[0].to_node (edge "ingress" -> "workr"): no node "workr" (did you mean "worker"?)',
    ]


@pytest.mark.parametrize(
    "config",
    [{"upload_path": "x"}, {"uploads": [{"source": "x"}]}, {"upload_paths": [{"source": "x", "target": "y"}]}],
)
def test_an_upload_in_a_mapping_is_an_issue(config: dict[str, Any]) -> None:
    [found] = issues(changed(("nodes.1.config", {"command": "true", **config})))
    assert "given as a mapping" in found.message


def test_a_mapping_that_is_not_json_is_an_issue() -> None:
    bads: list[Any] = [object(), float("nan"), float("inf")]
    for bad in bads:
        issue = only_issue(("metadata", {"x": bad}))
        assert issue.path == "metadata.x"
        assert "JSON" in issue.message
    assert "is not valid JSON" in only_issue(("metadata", {"x": "\ud800"})).message
    loop: list[Any] = []
    loop.append(loop)
    assert "is nested too deeply" in only_issue(("metadata", {"x": loop})).message
