"""Findings of a checkup, from made-up statuses: each problem, its level, and its hint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mirrorneuron.diagnostics.checkup import Level, RuntimeStatus, findings, worst

INFO = {"server_name": "valkey", "valkey_version": "9.1.2", "redis_version": "7.2.4", "aof_enabled": 1}
MIB = 1024 * 1024


def node(*pools: str, **more: Any) -> Any:
    return {"host": "a", "pools": dict.fromkeys(pools), "stopping": False, "versions": {"mirrorneuron": "1.0"}, **more}


WELL = RuntimeStatus(
    url="redis://store:6379/0",
    info=INFO,
    saves="",
    version="1.0",
    pools=("default",),
    nodes=[node("light"), node("default")],
    swept_ms=900,
    up_ms=3_600_000,
)


def texts_of(runtime_status: RuntimeStatus, level: Level) -> list[tuple[str, str]]:
    """What is said at that level, and what to do."""
    return [(found["message"], found["hint"]) for found in findings(runtime_status) if found["level"] == level]


def test_a_healthy_runtime_gets_no_hints() -> None:
    found = findings(WELL)
    assert worst(found) is Level.OK
    assert [each["check"] for each in found] == ["store", "disk", "memory", "broker", "nodes", "sweeps"]
    assert not any(each["hint"] for each in found)
    assert found[0]["message"] == "Valkey 9.1.2 at redis://store:6379/0 answers in 0.0 ms"


ERRORS: list[tuple[dict[str, Any], str, str]] = [
    (
        {"error": "nothing answers at X", "error_hint": "start it, or set Y"},
        "nothing answers at X",
        "start it, or set Y",
    ),
    ({"info": {**INFO, "redis_version": "6.0.9"}}, "Valkey 9.1.2 at", "version 6.2 or later"),
    (
        {"refusal": "command not allowed when used memory > 'maxmemory'."},
        "the server refuses a write: command",
        "maxmemory",
    ),
    ({"refusal": "You can't write against a read only replica."}, "the server refuses a write: You", "it is a replica"),
    (
        {"refusal": "MISCONF Redis is configured to save RDB snapshots"},
        "the server refuses a write: MISC",
        "free space",
    ),
    ({"refusal": "User bob has no permissions to run"}, "the server refuses a write: User", "ACL must allow"),
    ({"refusal": "ERR else"}, "the server refuses a write: ERR else", "see the log of the server"),
    ({"info": {**INFO, "aof_last_write_status": "err"}}, "could not write to its disk", "free space there"),
    ({"info": {**INFO, "rdb_last_bgsave_status": "err"}}, "could not write to its disk", "free space there"),
    (
        {"info": {**INFO, "maxmemory": 10 * MIB, "used_memory": MIB, "maxmemory_policy": "allkeys-lru"}},
        "uses 1.0 MiB of 10.0 MiB, and evicts keys when it is full (allkeys-lru), also those of jobs",
        "set maxmemory-policy to noeviction",
    ),
    ({"broker_error": "the broker at amqp://x does not answer: no"}, "the broker at amqp://x", "MIRROR_NEURON_BROKER"),
    ({"nodes": [], "live_jobs": 2}, "no node is alive; 2 live jobs", "start one: mn worker"),
    ({"nodes": [node("default")]}, "no node serves pool 'light'", "start one: mn worker"),
    ({"swept_ms": 60_000}, "the last sweep was 1 min ago", "see the logs of the nodes"),
    ({"swept_ms": None}, "no sweep has run yet", "see the logs of the nodes"),
]


@pytest.mark.parametrize(("change", "message", "hint"), ERRORS)
def test_errors_stop_jobs_now(change: dict[str, Any], message: str, hint: str) -> None:
    runtime_status = replace(WELL, **change)
    assert worst(findings(runtime_status)) is Level.ERROR
    [(said, advice)] = texts_of(runtime_status, Level.ERROR)
    assert message in said
    assert hint in advice


WARNINGS: list[tuple[dict[str, Any], str, str]] = [
    ({"latency_ms": 35.0}, "answers in 35.0 ms", "run the nodes near the server"),
    ({"info": {**INFO, "aof_enabled": 0}}, "nothing is written to disk", "--appendonly yes"),
    ({"info": {**INFO, "aof_enabled": 0}, "saves": "3600 1"}, "snapshots are written to disk (save 3600 1)", "append"),
    ({"info": {**INFO, "aof_enabled": 0}, "saves": None}, "snapshots are written to disk: a crash", "appendonly"),
    (
        {"info": {**INFO, "maxmemory": 10 * MIB, "used_memory": 9.5 * MIB}},
        "uses 9.5 MiB of 10.0 MiB: it will soon refuse writes",
        "mn job cleanup",
    ),
    ({"nodes": []}, "no node is alive; 0 live jobs", "start one: mn worker"),
    ({"pools": ("default", "gpu")}, "no node serves pool 'gpu'", "start one: mn worker --pool gpu"),
    ({"version": "2.0"}, "several versions are in use: 1.0, 2.0 (here: 2.0)", "one version everywhere"),
    ({"clock_ms": 61_000}, "the clock here is 1 min 1 s ahead of the server's", "NTP"),
    ({"clock_ms": -3_000}, "the clock here is 3 s behind the server's", "NTP"),
]


@pytest.mark.parametrize(("change", "message", "hint"), WARNINGS)
def test_warnings_may_stop_jobs_later(change: dict[str, Any], message: str, hint: str) -> None:
    runtime_status = replace(WELL, **change)
    assert worst(findings(runtime_status)) is Level.WARNING
    [(said, advice)] = texts_of(runtime_status, Level.WARNING)
    assert message in said
    assert hint in advice


def test_stopping_nodes_do_not_count_as_serving() -> None:
    stopping = replace(WELL, nodes=[node("light", "default", stopping=True)], live_jobs=1)
    assert [said for said, _ in texts_of(stopping, Level.ERROR)] == ["no node is alive; 1 live job"]


@pytest.mark.parametrize("swept_ms", [None, 3_600_000])
def test_a_new_node_is_not_expected_to_have_swept_yet(swept_ms: int | None) -> None:
    """Also after all nodes were stopped for an hour."""
    found = findings(replace(WELL, swept_ms=swept_ms, up_ms=2_000))
    assert worst(found) is Level.OK
    assert "sweeps" not in {each["check"] for each in found}


def test_a_server_that_hides_info_and_config_causes_no_errors() -> None:
    quiet = findings(replace(WELL, info={}, saves=None))
    assert {each["check"] for each in quiet if each["level"] == Level.ERROR} == set()
