"""`mn why`: two lines of text, or the whole diagnosis as JSON; also when no server answers."""

from __future__ import annotations

import json
import re
import uuid

import pytest

from mirrorneuron.api.client import Client
from tests.cli.conftest import MN, Mn
from tests.support.graphs import agent, manifest
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until

HOME = "MIRROR_NEURON_HOME"


@pytest.fixture
def waiting(client: Client) -> str:
    """A job that waits for a message from outside."""
    job_id = client.run_manifest(manifest([agent("ear", "sensor")]), job_id=f"ear-{uuid.uuid4().hex[:8]}")
    wait_until(lambda: client.why(job_id)["cause"] == "waiting_outside")
    return job_id


def test_the_first_line_is_the_cause_and_its_time_and_the_second_the_hint(mn: Mn, client: Client, waiting: str):
    shown = mn("why", waiting)
    assert (shown.returncode, shown.stderr) == (0, "")
    first, second = shown.stdout.splitlines()
    since = client.why(waiting)["since"]
    told = re.escape(f"the job waits for a message from outside to ear (since {since}, ")
    assert re.fullmatch(told + r"(a moment|\d+ s|1 min.*) ago\)", first)
    assert second == f"send one: mn send {waiting} ear message.json"


def test_json_has_the_whole_diagnosis(mn: Mn, client: Client, waiting: str):
    shown = mn("why", waiting, "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (0, client.why(waiting))


def test_control_characters_of_a_reason_are_escaped(env, client: Client, waiting: str):
    client.cancel(waiting, reason="\x1b[31mred\x1b[0m\nline")
    with Terminal([MN, "why", waiting], env, columns=300) as screen:
        assert screen.end() == 0
    assert "\x1b" not in screen.raw
    assert "\\x1b[31mred\\x1b[0m\\nline (since " in screen.text
    assert len(screen.text.splitlines()) == 2


def test_an_unknown_job_exits_3(mn: Mn):
    ended = mn("why", "nobody")
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "mn: no job 'nobody'\n")


def test_an_unreachable_server_is_the_cause_and_exits_5(mn: Mn, unreachable: dict[str, str]):
    ended = mn("why", "some", env=unreachable)
    assert (ended.returncode, ended.stderr) == (5, "")
    first, second = ended.stdout.splitlines()
    assert first.startswith(f"the job store at {unreachable['MIRROR_NEURON_REDIS_URL']} does not answer (")
    assert second == "start it, or set MIRROR_NEURON_REDIS_URL; jobs continue when it is back"


def test_without_any_server_the_hint_says_how_to_start_one(mn: Mn, nowhere: dict[str, str]):
    ended = mn("why", "some", "--json", env=nowhere)
    assert (ended.returncode, ended.stderr) == (5, "")
    found = json.loads(ended.stdout)
    assert (found["cause"], found["message"]) == ("store_away", f"no embedded server runs in {nowhere[HOME]}")
    assert found["hint"].startswith("start one with `mn up` or `mn run FOLDER`")


def test_an_unreachable_broker_is_the_cause_and_exits_5(mn: Mn, env, nobody: str, waiting: str):
    ended = mn("why", waiting, env={**env, "MIRROR_NEURON_BROKER_URL": f"redis://{nobody}/0"})
    assert ended.returncode == 5
    assert ended.stdout.startswith("the broker at ")
