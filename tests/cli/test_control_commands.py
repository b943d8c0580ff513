"""Pause, resume, cancel, send, retry and cleanup, on a terminal and in a script."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.cli.commands.cleanup import age
from mirrorneuron.cli.prompts import CHOICES_MAX
from mirrorneuron.settings import Settings
from tests.cli.conftest import MN, Bundle, Mn
from tests.support.terminal import CTRL_C, Terminal
from tests.support.waiting import wait_until

CTRL_D = b"\x04"
JOB_COMMANDS = ("pause {}", "resume {}", "cancel {}", "retry {}", "send {} ear {message}")


@pytest.fixture
def message(tmp_path: Path) -> Path:
    """A file with one payload."""
    file = tmp_path / "message.json"
    file.write_text('{"n": 1}')
    return file


@pytest.fixture
def fed(tmp_path: Path, client: Client) -> str:
    """A running job that completes with its second message; only the test sends messages."""
    job_id = f"fed-{uuid.uuid4().hex}"
    start = {"node_id": "start", "agent_type": "router", "config": {"emit_type": "unused"}}
    ear = {"node_id": "ear", "agent_type": "sensor", "config": {"complete_job": True, "complete_after": 2}}
    bundle = Bundle(tmp_path / "fed").write({"nodes": [start, ear], "edges": [], "entrypoints": ["start"]})
    client.run_manifest(str(bundle), job_id=job_id)
    wait_until(lambda: client.inspect_job(job_id)["idle_since"])
    return job_id


class NoNode:
    """A namespace for one test, without a node: its jobs do not change."""

    def __init__(self, env: dict[str, str], settings: Settings, folder: str) -> None:
        namespace = f"control-{uuid.uuid4().hex}"
        self.env = {**env, "MIRROR_NEURON_REDIS_NAMESPACE": namespace}
        self.client = Client(settings.model_copy(update={"redis_namespace": namespace}))
        self._folder = folder

    def submit(self, *job_ids: str) -> None:
        for job_id in job_ids:
            self.client.run_manifest(self._folder, job_id=job_id)

    @property
    def statuses(self) -> dict[str, str]:
        return {job["job_id"]: job["status"] for job in self.client.list_jobs()}


@pytest.fixture
def no_node(env: dict[str, str], node: Any, endless: str) -> NoNode:
    return NoNode(env, node.settings, endless)


def test_pause_and_resume_print_the_status_and_are_idempotent(mn: Mn, client, fed):
    for _ in range(2):
        ended = mn("pause", fed)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"job {fed} is paused\n", "")
    assert json.loads(mn("pause", fed, "--json").stdout) == client.inspect_job(fed)
    for _ in range(2):
        ended = mn("resume", fed)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"job {fed} is running\n", "")
    assert json.loads(mn("resume", fed, "--json").stdout)["status"] == "running"


def test_cancel_prints_the_status_and_keeps_the_first_reason(mn: Mn, client, fed):
    """It exits 0, not 1, although the job is cancelled."""
    ended = mn("cancel", fed, "--reason", "not needed")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"job {fed} is cancelled\n", "")
    again = mn("cancel", fed, "--reason", "again", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == client.inspect_job(fed)
    assert client.inspect_job(fed)["result"]["reason"] == "not needed"


def test_a_cancelled_job_is_retried_as_a_whole_or_from_an_agent(mn: Mn, client, fed):
    for number, more in ((2, ()), (3, ("--from", "ear"))):
        client.cancel(fed)
        ended = mn("retry", fed, *more)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"job {fed} is running\n", "")
        assert client.inspect_job(fed)["run"] == number
    client.cancel(fed)
    assert json.loads(mn("retry", fed, "--json").stdout)["run"] == 4


def test_send_reads_a_file_or_stdin_and_prints_the_message_id(mn: Mn, client, fed, message):
    first = mn("send", fed, "ear", str(message))
    assert (first.returncode, first.stderr) == (0, "")
    named = json.dumps({"envelope": {"message_id": "mine"}, "body": {"n": 2}}).encode()
    second = mn("send", fed, "ear", "-", "--json", stdin=named)
    assert (second.returncode, json.loads(second.stdout)) == (0, {"message_id": "mine"})
    job = client.wait_for_job(fed, timeout=60_000)
    assert job["result"]["output"] == {"count": 2, "last_message": {"n": 2}}
    assert first.stdout.strip() not in ("", "mine")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "<stdin> is not valid JSON: EOF while parsing a value at line 1 column 0"),
        (b'{"a":\n }', "<stdin> is not valid JSON: expected value at line 2 column 2"),
        (b"[NaN]", "<stdin> is not valid JSON: expected value at line 1 column 2"),
        (b"\xff", "<stdin> is not valid JSON: expected value at line 1 column 1"),
        (b'{"body": {"n": 1, "n": 2}}', "<stdin>: body.n: duplicate key"),
        (b'{"envelope": 1}', "envelope must be an object"),
        (b'{"headers": []}', "headers must be an object"),
        (b'{"priority": -1}', "priority must be a number of 0 or more"),
        (b'{"message_id": ""}', "message_id must not be empty"),
        (b'{"envelope": {"type": ""}}', "type must not be empty"),
        (b"[5]", 'a message must be an object, not a list (put the value into a body: {"body": ...})'),
    ],
)
def test_an_invalid_message_exits_2_and_says_why(mn: Mn, client, fed, text, said):
    ended = mn("send", fed, "ear", "-", stdin=text)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"mn: Invalid value for MESSAGE: {said} (see `mn send --help`)\n"
    assert client.inspect_agents(fed)[1]["mailbox_depth"] == client.inspect_agents(fed)[1]["processed_messages"] == 0


@pytest.mark.parametrize("given", ["nothing there", "a folder"])
def test_a_message_file_that_cannot_be_read_exits_2(mn: Mn, tmp_path, given):
    ended = mn("send", "job", "agent", str(tmp_path if given == "a folder" else tmp_path / "none.json"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert str(tmp_path) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_message_over_the_limit_exits_2_and_names_the_limit(mn: Mn, env, fed):
    small = {**env, "MIRROR_NEURON_MAX_MESSAGE_BYTES": "1000"}
    ended = mn("send", fed, "ear", "-", env=small, stdin=json.dumps({"body": "x" * 1000}).encode())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "MIRROR_NEURON_MAX_MESSAGE_BYTES is 1000" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", JOB_COMMANDS)
def test_a_job_that_is_completed_already_exits_2(mn: Mn, client, fed, message, command):
    for number in range(2):
        client.send_message(fed, "ear", {"body": number})
    client.wait_for_job(fed, timeout=60_000)
    ended = mn(*command.format(fed, message=message).split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"mn: job '{fed}' ")
    assert ended.stderr.endswith("is completed\n")


@pytest.mark.parametrize("command", JOB_COMMANDS)
def test_an_unknown_job_exits_3(mn: Mn, message, command):
    ended = mn(*command.format("nobody", message=message).split())
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "mn: no job 'nobody'\n")


def test_a_pending_job_cannot_be_paused_resumed_or_retried(mn: Mn, no_node: NoNode):
    no_node.submit("waiting")
    for command in ("pause", "resume", "retry"):
        ended = mn(command, "waiting", env=no_node.env)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.endswith("it is pending\n")


def test_an_unknown_agent_exits_3_and_the_known_agents_are_named(mn: Mn, client, fed, message):
    unknown = f"mn: job '{fed}' has no agent 'eer'; its agents: start, ear\n"
    ended = mn("send", fed, "eer", str(message))
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", unknown)
    client.cancel(fed)
    ended = mn("retry", fed, "--from", "eer")
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", unknown)


@pytest.mark.parametrize("command", [*JOB_COMMANDS, "job cleanup", "job cleanup --all --yes"])
def test_without_a_server_each_exits_5(mn: Mn, env, nowhere, tmp_path, message, command):
    words = command.format("some", message=message).split()
    unreachable = f"unix://{tmp_path}/nobody.sock"
    for where in (nowhere, {**env, "MIRROR_NEURON_REDIS_URL": unreachable, "MIRROR_NEURON_BROKER_URL": unreachable}):
        ended = mn(*words, env=where)
        assert (ended.returncode, ended.stdout) == (5, "")
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["pause", "resume", "retry", "cancel", "cancel --json", "send some", "send some a"])
def test_a_missing_argument_is_bad_usage(mn: Mn, command):
    """Also for `cancel`, which offers a choice on a terminal only."""
    ended = mn(*command.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1


def test_a_live_job_is_chosen_on_a_terminal_by_its_number(no_node: NoNode):
    no_node.submit("ended", "first", "second")
    no_node.client.cancel("ended")
    before = [job["job_id"] for job in no_node.client.list_jobs(include_terminal=False)]
    with Terminal([MN, "cancel", "--reason", "chosen"], no_node.env) as screen:
        screen.read_until("cancel which job, 1 to 2 (Enter: none)? ")
        rows = [line.split()[:2] for line in screen.text.splitlines() if "pending" in line]
        for number in ("3", "0"):
            screen.press(f"{number}\n".encode())
            screen.read_until(f"'{number}' is not a number from 1 to 2")
        screen.press(b"2\n")
        assert screen.end() == 0
    assert rows == [["1", before[0]], ["2", before[1]]]
    assert screen.text.endswith(f"job {before[1]} is cancelled\n")
    assert no_node.statuses == {"ended": "cancelled", before[0]: "pending", before[1]: "cancelled"}
    assert no_node.client.inspect_job(before[1])["result"]["reason"] == "chosen"


def test_a_long_list_of_live_jobs_is_cut_and_says_so(no_node: NoNode):
    no_node.submit(*(f"live-{number:02}" for number in range(CHOICES_MAX + 1)))
    with Terminal([MN, "cancel"], no_node.env) as screen:
        screen.read_until(f"cancel which job, 1 to {CHOICES_MAX} (Enter: none)? ")
        screen.press(b"\n")
        assert screen.end() == 0
    assert "The list is cut. All live jobs: mn job list --live --limit 0" in screen.text
    assert f"live-{CHOICES_MAX:02}" in screen.text
    assert "live-00" not in screen.text
    no_node.client.cleanup_jobs(all=True)


@pytest.mark.parametrize(("keys", "code"), [(b"\n", 0), (CTRL_D, 0), (CTRL_C, 130)])
def test_without_a_choice_no_job_is_cancelled(no_node: NoNode, keys, code):
    no_node.submit("spared")
    with Terminal([MN, "cancel"], no_node.env) as screen:
        screen.read_until("(Enter: none)? ")
        screen.press(keys)
        assert screen.end() == code
    assert code or screen.text.endswith("nothing was changed\n")
    assert no_node.statuses == {"spared": "pending"}


def test_without_live_jobs_there_is_no_choice(no_node: NoNode):
    with Terminal([MN, "cancel"], no_node.env) as screen:
        assert screen.end() == 0
    assert screen.text == "there are no live jobs\n"


@pytest.mark.parametrize("command", ["cancel", "job cleanup --all"])
def test_with_json_no_question_is_asked_even_on_a_terminal(no_node: NoNode, command):
    no_node.submit("spared")
    with Terminal([MN, *command.split(), "--json"], no_node.env) as screen:
        assert screen.end() == 2
    assert screen.text.startswith("mn: Invalid value for ")
    assert no_node.statuses == {"spared": "pending"}


def test_cleanup_deletes_ended_jobs_only(mn: Mn, no_node: NoNode):
    no_node.submit("over", "live")
    no_node.client.cancel("over")
    ended = mn("job", "cleanup", env=no_node.env)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "deleted 1 job\n", "")
    assert no_node.statuses == {"live": "pending"}
    assert json.loads(mn("job", "cleanup", "--json", env=no_node.env).stdout) == {"deleted": []}


def test_cleanup_keeps_jobs_that_are_younger_than_the_age(mn: Mn, no_node: NoNode):
    no_node.submit("over")
    no_node.client.cancel("over")
    assert mn("job", "cleanup", "--older-than", "7d", env=no_node.env).stdout == "deleted 0 jobs\n"
    shown = mn("job", "cleanup", "--older-than", "0s", "--json", env=no_node.env).stdout
    assert json.loads(shown) == {"deleted": ["over"]}


def test_cleanup_of_live_jobs_needs_yes_without_a_terminal(mn: Mn, no_node: NoNode):
    no_node.submit("live")
    ended = mn("job", "cleanup", "--all", env=no_node.env)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--yes" in ended.stderr
    assert no_node.statuses == {"live": "pending"}
    assert mn("job", "cleanup", "--all", "--yes", env=no_node.env).stdout == "deleted 1 job\n"
    assert no_node.statuses == {}


@pytest.mark.parametrize(
    ("keys", "last", "left"),
    [
        (b"y\n", "deleted 1 job", []),
        (b"n\n", "nothing was deleted", ["live"]),
        (CTRL_D, "nothing was deleted", ["live"]),
    ],
)
def test_cleanup_of_live_jobs_asks_for_confirmation_on_a_terminal(no_node: NoNode, keys, last, left):
    no_node.submit("live")
    with Terminal([MN, "job", "cleanup", "--all"], no_node.env) as screen:
        screen.read_until("[y/N] ")
        screen.press(keys)
        assert screen.end() == 0
    assert screen.text.endswith(f"{last}\n")
    assert list(no_node.statuses) == left


def test_with_yes_no_question_is_asked(no_node: NoNode):
    no_node.submit("live")
    with Terminal([MN, "job", "cleanup", "--all", "--yes"], no_node.env) as screen:
        assert screen.end() == 0
    assert screen.text == "deleted 1 job\n"


@pytest.mark.parametrize(("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("30m", 1_800), ("10s", 10)])
def test_an_age_has_a_unit(text, seconds):
    assert age(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7w", "-1d", "1.5h", "7d ", "٧d", "9999999999d"])
def test_an_invalid_age_exits_2(mn: Mn, text):
    ended = mn("job", "cleanup", f"--older-than={text}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "write 7d, 12h, 30m or 10s" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
