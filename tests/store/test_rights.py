"""The least rights of each role, and the probe that finds which of them a user lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorneuron.store.connection import connect
from mirrorneuron.store.keys import Keys
from mirrorneuron.store.rights import EXPIRES_MS, Role, refusals
from mirrorneuron.store.script_sources import NAMES, SOURCES
from tests.support.acl import rules_of, set_user, url_of
from tests.support.valkey import ValkeyServer

NS = "acl_tests"
KEYS = Keys(NS)
#: Every connection needs these: without one of them there is no connection, and a probe without INFO says so elsewhere.
OF_CONNECTIONS = {"+hello", "+auth", "+ping", "+select", "+client|setname", "+client|setinfo", "+discard"}
OF_PRODUCERS = {"create", "finish", "pause_resume", "deliver", "retry", "delete"}  # the scripts that producers call
OF_NODES = set(NAMES) - (OF_PRODUCERS - {"finish"})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server of this module, whose users it changes."""
    with ValkeyServer(tmp_path_factory.mktemp("guarded")) as running:
        yield running


def refused(server: ValkeyServer, role: Role, rules: list[str], *, broker: bool = True) -> list[str]:
    """What the probe says of a user with these rules."""
    set_user(server.client, "probed", rules)
    client = connect(url_of(server.url, "probed"))
    try:
        return refusals(client, KEYS, role, ["default"], broker=broker)
    finally:
        client.close()


@pytest.mark.parametrize("role", Role)
def test_the_documented_rules_are_enough_and_each_is_needed(guarded: ValkeyServer, role: Role) -> None:
    """Without any one of them the probe names it. It leaves nothing."""
    guarded.flush()
    rules = rules_of(role, NS)
    assert refused(guarded, role, rules) == []
    assert guarded.client.keys() == []
    for rule in dict.fromkeys(rules):
        if rule in OF_CONNECTIONS:
            continue
        found = refused(guarded, role, [other for other in rules if other != rule])
        expected = rule[1:] if rule[0] == "+" else rule.removeprefix("%R")[1:]
        assert any(expected in each for each in found) or rule_is_of_other_pools(rule, found), (rule, found)
    assert all(0 < guarded.client.pttl(key) <= EXPIRES_MS for key in guarded.client.scan_iter()), (
        "of the probe without DEL"
    )


def rule_is_of_other_pools(rule: str, found: list[str]) -> bool:
    """The pattern of all queues is probed with the names of the queues that there are."""
    return rule.endswith((".*", ".pool.*")) and any("pool.default" in each for each in found)


@pytest.mark.parametrize(("role", "scripts"), [(Role.PRODUCER, OF_PRODUCERS), (Role.NODE, OF_NODES)])
def test_every_command_of_the_scripts_is_among_the_rules(role: Role, scripts: set[str]) -> None:
    used = {name.lower() for script in scripts for name in re.findall(r"redis\.p?call\('(\w+)'", SOURCES[script])}
    if role is Role.PRODUCER:
        used.discard("pexpire")
    assert used - {rule[1:] for rule in rules_of(role, NS) if rule[0] == "+"} == set()


def test_channels_that_are_refused_are_named(guarded: ValkeyServer) -> None:
    """Redis 7 gives a new user no channel."""
    found = refused(guarded, Role.NODE, ["~*", "+@all", "resetchannels"])
    assert found[0] == "command publish" or "channel" in found[0]
    assert {"channel celery-task-meta-*", f"channel {NS}:ends", f"channel /0.{NS}.control.pidbox"} <= set(found)


def test_a_separate_broker_needs_its_own_rights(guarded: ValkeyServer) -> None:
    """The store's user needs neither the queues nor the channels of Celery then."""
    rules = [rule for rule in rules_of(Role.NODE, NS) if "control" not in rule and "kombu" not in rule]
    assert refused(guarded, Role.NODE, rules, broker=False) == []
    assert refused(guarded, Role.NODE, rules) != []


def test_a_command_that_the_server_does_not_have_is_named(tmp_path: Path) -> None:
    class Renamed(ValkeyServer):
        def _arguments(self) -> list[str]:
            return [*super()._arguments(), "--rename-command", "SCRIPT", ""]

    with Renamed(tmp_path) as server:
        found = refusals(connect(server.url), KEYS, Role.NODE, [], broker=True)
    assert found == ["command script|load", "command script|exists"]
