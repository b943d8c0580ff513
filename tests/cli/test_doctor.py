"""`mn doctor` on real servers: healthy, unreachable, and with one problem each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from tests.cli.conftest import Mn
from tests.support.graphs import executor, manifest, router
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until


def examined(mn: Mn, env: dict[str, str], code: int) -> dict[str, tuple[str, str, str]]:
    """The findings of `mn doctor`: check -> (level, message, hint)."""
    done = mn("doctor", "--json", env=env)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["level"] == ("error" if code else max(each["level"] for each in found["findings"]))
    return {each["check"]: (each["level"], each["message"], each["hint"]) for each in found["findings"]}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path / "server") as running:
        yield running


def at(server: ValkeyServer, env: dict[str, str], **more: str) -> dict[str, str]:
    return {**env, "MIRROR_NEURON_REDIS_URL": server.url, **more}


def test_a_runtime_that_works_has_nodes_and_a_sweeper(mn: Mn, env: dict[str, str]) -> None:
    found = wait_until(lambda: swept if "sweeps" in (swept := examined(mn, env, 0)) else None)
    assert found["nodes"][:2] == ("ok", found["nodes"][1])
    assert "workers on 1 machine" in found["nodes"][1]
    assert found["sweeps"] == ("ok", "the sweeper runs", "")
    plain = mn("doctor", env=env)
    assert plain.stdout.splitlines()[0].split() == ["LEVEL", "CHECK", "FINDING"]
    assert "answers in" in plain.stdout


def test_without_a_server_the_hint_says_how_to_start_one(mn: Mn, nowhere: dict[str, str]) -> None:
    level, message, hint = examined(mn, nowhere, 5)["store"]
    assert (level, message.startswith("no embedded server runs in")) == ("error", True)
    assert hint.startswith("start one with `mn up`")


def test_an_unreachable_server_is_a_finding(mn: Mn, unreachable: dict[str, str]) -> None:
    assert "does not answer" in examined(mn, unreachable, 5)["store"][1]


def test_a_new_server_has_warnings_for_nodes_and_persistence(mn: Mn, env: dict[str, str], own: ValkeyServer) -> None:
    found = examined(mn, at(own, env), 0)
    assert found["disk"][:2] == ("warning", "nothing is written to disk: all jobs are lost when the server ends")
    assert found["nodes"] == ("warning", "no node is alive; 0 live jobs", "start one: mn worker")
    assert own.client.dbsize() <= 1, "it leaves nothing"
    wait_until(lambda: own.client.dbsize() == 0)


def test_a_server_without_memory_is_an_error(mn: Mn, env: dict[str, str], own: ValkeyServer) -> None:
    own.client.config_set("maxmemory", 1)
    found = examined(mn, at(own, env), 5)
    assert "raise maxmemory" in found["writes"][2]
    assert found["memory"][0] == "warning"
    own.client.config_set("maxmemory-policy", "allkeys-lru")
    assert examined(mn, at(own, env), 5)["memory"][2] == "set maxmemory-policy to noeviction"


def test_a_replica_is_an_error(mn: Mn, env: dict[str, str], own: ValkeyServer, tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "replica") as replica:
        replica.client.execute_command("REPLICAOF", "127.0.0.1", own.port)
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up")
        assert "it is a replica" in examined(mn, at(replica, env), 5)["writes"][2]


def test_a_user_without_permission_for_scripts_is_an_error(mn: Mn, env: dict[str, str], own: ValkeyServer) -> None:
    own.client.execute_command("ACL", "SETUSER", "bob", "on", ">word", "~*", "&*", "+@all", "-eval", "-info", "-config")
    url = own.url.replace("redis://", "redis://bob:word@")
    found = examined(mn, {**env, "MIRROR_NEURON_REDIS_URL": url}, 5)
    assert "ACL must allow scripts" in found["writes"][2]
    assert "redis://***@127.0.0.1" in found["store"][1]


def test_what_the_user_may_not_do_is_an_error_and_what_it_may_not_ask_was_not_told(
    mn: Mn, env: dict[str, str], own: ValkeyServer
) -> None:
    """Redis 7 gives a new user no channels; without them no job ends its wait."""
    own.client.execute_command("ACL", "SETUSER", "ann", "on", ">word", "~*", "+@all", "-@dangerous", "resetchannels")
    own.client.config_set("maxmemory-policy", "allkeys-lru")
    own.client.config_set("maxmemory", "64mb")
    url = own.url.replace("redis://", "redis://ann:word@")
    found = examined(mn, {**env, "MIRROR_NEURON_REDIS_URL": url}, 5)
    level, message, hint = found["rights"]
    assert level == "error"
    assert "user 'ann' may not use what a node needs" in message
    assert "channel celery-task-meta-*" in message
    assert "Least rights" in hint
    assert [found[check][0] for check in ("store", "disk", "memory")] == ["warning"] * 3
    assert "not told" in found["memory"][1]


class Configured(ValkeyServer):
    """A server with other arguments; its own client speaks RESP2."""

    more: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"{super().url}?protocol=2"

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), *self.more]


def test_a_server_in_cluster_mode_is_an_error(mn: Mn, env: dict[str, str], tmp_path: Path) -> None:
    server = Configured(tmp_path / "cluster")
    server.more = ("--cluster-enabled", "yes")
    with server:
        level, message, hint = examined(mn, at(server, env), 5)["cluster"]
    assert (level, "cluster mode" in message, "Sentinel" in hint) == ("error", True, True)


def test_a_server_without_resp3_is_an_error_that_names_the_option(mn: Mn, env: dict[str, str], tmp_path: Path) -> None:
    server = Configured(tmp_path / "old")
    server.more = ("--rename-command", "HELLO", "SAY")
    with server:
        url = server.url.partition("?")[0]
        level, _, hint = examined(mn, {**env, "MIRROR_NEURON_REDIS_URL": url}, 5)["store"]
    assert (level, "?protocol=2" in hint) == ("error", True)


def test_the_pool_that_a_live_job_waits_for_is_an_error(mn: Mn, env: dict[str, str], client: Client) -> None:
    """Also a pool of which no node has enough slots for a run."""
    graph = manifest([router("spread"), executor("gpu", "true", pool="gpu", pool_slots=3)], [("spread", "gpu", "go")])
    job_id = client.run_manifest(graph)
    try:
        wait_until(lambda: client.why(job_id)["cause"] == "no_node")
        done = mn("doctor", "--json", env=env)
        assert done.returncode == 5
        (found,) = [each for each in json.loads(done.stdout)["findings"] if "'gpu'" in each["message"]]
        assert found["level"] == "error"
        assert "waits for it" in found["message"]
        assert found["hint"] == "start one: mn worker --pool gpu --slots 3"
    finally:
        client.cancel(job_id)


def test_an_unreachable_separate_broker_is_a_finding(
    mn: Mn, env: dict[str, str], own: ValkeyServer, nobody: str
) -> None:
    found = examined(mn, at(own, env, MIRROR_NEURON_BROKER_URL=f"redis://{nobody}/0"), 5)
    assert found["broker"][0] == "error"
    assert examined(mn, at(own, env, MIRROR_NEURON_BROKER_URL=own.url), 0)["broker"][1] == f"{own.url} answers"
