"""Findings of a checkup, from made-up statuses: each problem, its level, and its hint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mirrorneuron.diagnostics.checkup import findings, worst
from mirrorneuron.diagnostics.finding import Level, PoolNeed, RuntimeStatus

MIB = 1024 * 1024
INFO = {
    "server_name": "valkey",
    "valkey_version": "9.1.2",
    "redis_version": "7.2.4",
    "aof_enabled": 1,
    "used_memory": 2 * MIB,
    "used_memory_startup": MIB,
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "total_system_memory": 1024 * MIB,
    "maxclients": 10_000,
    "connected_clients": 20,
    "connected_slaves": 0,
}


def node(*pools: str, **more: Any) -> Any:
    return {
        "host": "a",
        "pools": {pool: {"slots": 4} for pool in pools},
        "stopping": False,
        "versions": {"mirrorneuron": "1.0"},
        **more,
    }


WELL = RuntimeStatus(
    url="redis://store:6379/0",
    info=INFO,
    saves="",
    refusals=(),
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
    assert [each["check"] for each in found] == ["store", "rights", "disk", "memory", "broker", "nodes", "sweeps"]
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
    (
        {"refusals": ("command hset", "channel x:ends"), "user": "bob"},
        "user 'bob' may not use what a node needs: command hset, channel x:ends",
        "Least rights",
    ),
    ({"info": {**INFO, "cluster_enabled": 1}}, "the server is in cluster mode", "with Sentinel"),
    ({"cluster": "CROSSSLOT Keys"}, "in cluster mode, which is not supported: CROSSSLOT", "with Sentinel"),
    (
        {"needs": [PoolNeed("gpu", 3, 2, 2)]},
        "no node serves pool 'gpu'; 2 live jobs wait for it",
        "start one: mn worker --pool gpu --slots 2",
    ),
    (
        {"needs": [PoolNeed("default", 1, 1, 8)]},
        "a run needs 8 slots of pool 'default', but the largest node has 4; 1 live job waits for it",
        "start one: mn worker --slots 8",
    ),
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
    (
        {"info": {**INFO, "aof_enabled": 0}, "saves": None},
        "whether snapshots are written to disk was not told (CONFIG GET is refused)",
        "appendonly",
    ),
    ({"info": {**INFO, "dragonfly_version": "df-v1.30.0"}}, "Dragonfly df-v1.30.0 at", "allow-undeclared-keys"),
    ({"info": {**INFO, "connected_clients": 8_100}}, "8100 of 10000 connections are in use", "raise maxclients"),
    ({"info": {**INFO, "connected_slaves": 1}}, "replicas but no `min-replicas-to-write`", "min-replicas-to-write 1"),
    ({"url": "sentinel://a:1/m/0"}, "replicas but no `min-replicas-to-write`", "min-replicas-to-write 1"),
    (
        {"kept_jobs": 100, "recent_jobs": 100, "retention_s": 7 * 86_400, "info": {**INFO, "maxmemory": 150 * MIB}},
        "(100 jobs in the last hour, 10.2 KiB each) the jobs of 7 d need 169.0 MiB, of the server's 150.0 MiB",
        "MIRROR_NEURON_RETENTION_SECONDS",
    ),
    (
        {"kept_jobs": 100, "recent_jobs": 100, "info": {**INFO, "maxmemory": 50 * MIB}},
        "the server's 50.0 MiB are full in 2 d: ended jobs are kept for ever",
        "MIRROR_NEURON_RETENTION_SECONDS",
    ),
    ({"needs": [PoolNeed("gpu", 2, 0)]}, "no node serves pool 'gpu'; 2 live jobs may need it later", "--pool gpu"),
    ({"untold": {"nodes": "NOPERM x"}}, "nodes were not told: NOPERM x", "Least rights"),
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


def test_what_a_server_hides_was_not_told_and_is_not_ok() -> None:
    """Nothing is made up from defaults: neither a version, nor persistence, nor memory."""
    quiet = {each["check"]: each for each in findings(replace(WELL, info={}, saves=None))}
    for check in ("store", "disk", "memory"):
        assert quiet[check]["level"] == Level.WARNING
        assert "not told (INFO is refused)" in quiet[check]["message"] or "was not told" in quiet[check]["message"]


def test_retention_that_fits_is_told_too() -> None:
    found = findings(replace(WELL, kept_jobs=100, recent_jobs=10, retention_s=86_400))
    (told,) = [each for each in found if each["check"] == "retention"]
    assert (told["level"], told["hint"]) == (Level.OK, "")
    assert told["message"].endswith("the jobs of 1 d need 3.4 MiB, of the server's 1.0 GiB")
