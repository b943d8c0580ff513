"""Bad commands and bad output: the job fails with the reason in its record, and the same workers run the next job."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.jobs.conftest import MESSAGE_CAP, OUTPUT_CAP
from tests.support.graphs import (
    completed,
    ended,
    executor,
    failed,
    fan,
    is_alive,
    kinds,
    line,
    manifest,
    payloads,
    router,
    single,
    until_there,
)
from tests.support.waiting import wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def slot_pids(client, tmp_path_factory) -> set[int]:
    """The pool processes that run commands, one per slot: the parents of commands that wait for each other."""
    folder = tmp_path_factory.mktemp("slots")
    names = [f"s{number}" for number in range(client.settings.pools["default"])]
    meet = "; ".join(until_there(folder / name) for name in names)
    leaves = [executor(name, f"touch {folder / name}; {meet}; echo $PPID") for name in names]
    output = completed(client, fan(leaves, "executor_result"))
    return {int(message["sandbox"]["stdout"]) for message in output["messages"]}


@pytest.fixture(autouse=True)
def unharmed(client, node, slot_pids):
    """After each test the workers are the same processes as before, and run further jobs."""
    before = node.pids
    yield
    assert completed(client, line(3))["count"] == 1
    assert int(completed(client, single("echo $PPID"))["sandbox"]["stdout"]) in slot_pids
    assert node.pids == before
    assert all(is_alive(pid) for pid in [*before.values(), *slot_pids])


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        (["no-such-command"], "command not found: no-such-command", 127),
        (["/nowhere/command"], "command not found: /nowhere/command", 127),
        (["/etc"], "command cannot be run: /etc: Permission denied", 126),
        (["sh", "-c", "exit 9"], "command exited with code 9", 9),
        (["sh", "-c", "kill -9 $$"], "killed by signal SIGKILL", 137),
        (["sh", "-c", "kill -SEGV $$"], "killed by signal SIGSEGV", 139),
        ("exit 6", "command exited with code 6", 6),
    ],
)
def test_a_command_that_cannot_run_or_dies_fails_the_job(client, command, error, code):
    graph = single("true")
    graph["nodes"][0]["config"]["command"] = command
    result = failed(client, graph)
    assert (result["agent_id"], result["error"], result["details"]["exit_code"]) == ("work", error, code)


def test_children_that_outlive_their_command_are_killed(client, outside):
    """Whether they hold its pipes or not; its output is kept, and the job completes."""
    script = f"sleep 600 & echo $! > {outside}/one; sleep 600 >/dev/null 2>&1 & echo $! > {outside}/two; echo said"
    assert completed(client, single(script))["sandbox"]["stdout"] == "said\n"
    for name in ("one", "two"):
        pid = int((outside / name).read_text())
        wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


def test_200_megabytes_of_output_are_truncated(client, slot_pids):
    """Head and tail are kept with a marker, an event records it, and the reading process stays small."""
    script = "echo first; head -c 200000000 /dev/zero | tr '\\0' x; echo last"
    job = ended(client, single(script))
    sandbox = job["result"]["output"]["sandbox"]
    cap = client.settings.max_output_bytes
    assert sandbox["stdout"].startswith("first\nx")
    assert sandbox["stdout"].endswith("xlast\n")
    assert f"output cut: 200000011 bytes in all, {cap} kept" in sandbox["stdout"]
    assert len(sandbox["stdout"]) < cap + 200
    assert payloads(client, job["job_id"], "sandbox_output_cut") == [{"streams": ["stdout"]}]
    assert max(_peak_bytes(pid) for pid in slot_pids) < 400 * MIB


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    (row,) = [row for row in status.read_text().splitlines() if row.startswith("VmHWM")]
    return int(row.split()[1]) * 1024


def test_output_that_is_not_utf8_is_kept_with_replacement(client):
    output = completed(client, single(r"printf 'a\377\376b'; printf '\300' >&2"))
    assert (output["sandbox"]["stdout"], output["sandbox"]["stderr"]) == ("a��b", "�")


def test_a_nul_and_controls_in_the_output_are_kept(client):
    assert completed(client, single(r"printf 'a\000b\033[0m'"))["sandbox"]["stdout"] == "a\0b\x1b[0m"


@pytest.mark.parametrize(
    "text",
    [
        '{"other": 1',
        '{"other": NaN}',
        '[{"complete_job": 1}]',
        '{"other": 1}',
    ],
)
def test_output_without_structured_keys_is_plain_output_json_or_not(client, outside, text):
    """The text is kept completely, and no part of it takes effect."""
    (outside / "text").write_text(text)
    job = ended(client, single(f"cat {outside}/text"))
    assert job["result"]["output"]["sandbox"]["stdout"] == text
    assert job["result"]["output"]["agent_id"] == "work"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            '{"complete_job": {"n": 1}',
            "stdout: contains complete_job, but is not valid JSON: EOF while parsing an object",
        ),
        (
            '{"complete_job": {"n": 1}} and more',
            "stdout: contains complete_job, but is not valid JSON: trailing characters",
        ),
        (
            '{"next_state": NaN}',
            "stdout: contains next_state, but is not valid JSON: expected value at line 1 column 16",
        ),
        (
            '{"emit_messages" [}',
            "stdout: contains emit_messages, but is not valid JSON: expected `:` at line 1 column 18",
        ),
    ],
)
def test_structured_output_that_is_almost_json_fails_the_run(client, outside, text, error):
    """The reason and the output are in the record."""
    (outside / "text").write_text(text)
    result = failed(client, single(f"cat {outside}/text"))
    assert result["error"].startswith(error)
    assert result["details"]["stdout"] == text


def test_structured_output_over_the_cap_fails_the_run(client, outside):
    """Otherwise messages that are small enough one by one would be lost silently."""
    answer = json.dumps({"emit_messages": [{"type": "x", "body": "y" * 600_000}] * 2})
    (outside / "answer").write_text(answer)
    error = failed(client, single(f"cat {outside}/answer", output_message_type=None))["error"]
    cap = client.settings.max_output_bytes
    sizes = f"{len(answer)} bytes exceed MIRROR_NEURON_MAX_OUTPUT_BYTES ({cap})"
    assert error == f"stdout: contains emit_messages, but was truncated: {sizes}; print less or raise the limit"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"emit_messages": 5}, "stdout: emit_messages: must be a list"),
        ({"emit_messages": [{"body": 1}]}, "stdout: emit_messages[0].type: must be a non-empty string"),
        ({"emit_messages": [{"type": "x", "to": 5}]}, "stdout: emit_messages[0].to: must be an agent id"),
        ({"emit_messages": [{"type": "x", "body_base64": "?"}]}, "stdout: emit_messages[0].body_base64: must be"),
        ({"emit_messages": [{"type": "x", "headers": 5}]}, "stdout: emit_messages[0].headers: headers must be"),
        ({"events": [7]}, "stdout: events[0]: must be an object"),
        ({"complete_job?": "yes"}, "stdout: complete_job?: must be true or false"),
    ],
)
def test_structured_output_that_is_malformed_fails_the_run(client, outside, answer, error):
    """With the position in one line, and the output in the details."""
    (outside / "answer").write_text(json.dumps(answer))
    result = failed(client, single(f"cat {outside}/answer"))
    assert result["error"].startswith(error)
    assert json.loads(result["details"]["stdout"]) == answer


def test_deeply_nested_json_harms_no_worker(client, outside):
    (outside / "text").write_text('{"complete_job": ' + "[" * 20_000 + "]" * 20_000 + "}")
    job = ended(client, single(f"cat {outside}/text"))
    assert job["status"] in ("completed", "failed")
    assert job["result"]


def test_a_message_over_its_cap_fails_the_run_that_emits_it(tight):
    """With both sizes and the setting; for a router as for an executor."""
    result = failed(tight, single("head -c 40000 /dev/zero | tr '\\0' x"))
    assert "MIRROR_NEURON_MAX_MESSAGE_BYTES" in result["error"]
    assert str(MESSAGE_CAP) in result["error"]
    graph = manifest([executor("a", "head -c 40000 /dev/zero | tr '\\0' x"), executor("b", "true")])
    graph["edges"] = [{"from_node": "a", "to_node": "b", "message_type": "executor_result"}]
    assert failed(tight, graph)["error"].startswith("message to 'b' has ")


def test_output_over_its_cap_is_truncated_at_the_nodes_own_setting(tight):
    """The output is not emitted here, so that the cap of messages does not apply."""
    script = f"head -c {2 * OUTPUT_CAP} /dev/zero | tr '\\0' x >&2; exit 1"
    job = ended(tight, single(script))
    assert job["result"]["error"] == "command exited with code 1"
    assert OUTPUT_CAP <= len(job["result"]["details"]["stderr"]) < OUTPUT_CAP + 200
    assert payloads(tight, job["job_id"], "sandbox_output_cut") == [{"streams": ["stderr"]}]


def test_a_flood_of_messages_from_one_run_fails_it(client, outside):
    """More messages than a run may emit: the job fails, and its agents get none of them."""
    (outside / "answer").write_text(json.dumps({"emit_messages": [{"type": "x"}] * 1_001}))
    leaves = [router(f"leaf{number}") for number in range(100)]
    graph = manifest([executor("work", f"cat {outside}/answer", output_message_type=None), *leaves])
    graph["edges"] = [{"from_node": "work", "to_node": leaf["node_id"], "message_type": "x"} for leaf in leaves]
    result = failed(client, graph)
    assert result["error"] == "the run emits more than 100000 messages"


def test_a_command_may_remove_its_run_folder(client):
    assert completed(client, single('rm -rf "$MIRROR_NEURON_WORKDIR"; echo gone'))["sandbox"]["stdout"] == "gone\n"


def test_a_failed_job_keeps_the_results_from_before_the_failure(client):
    """The agents that had run keep their results, and the events say what happened."""
    nodes = [executor("good", "echo fine"), executor("bad", "exit 1")]
    job = ended(client, manifest(nodes, [("good", "bad", "executor_result")]))
    assert job["status"] == "failed"
    story = kinds(client, job["job_id"])
    assert (story.count("sandbox_job_completed"), story.count("sandbox_job_failed"), story[-1]) == (1, 1, "job_failed")
    (snapshot, _) = client.inspect_agents(job["job_id"])
    assert (snapshot["agent_id"], snapshot["processed_messages"]) == ("good", 1)


def test_a_removed_folder_of_runs_is_created_again(client, node):
    """Some systems delete old temporary folders while the node runs."""
    runs = node.settings.temp_dir / "runs"
    if runs.exists():
        os.rename(runs, runs.with_name("runs-swept"))
    assert completed(client, single("echo there"))["sandbox"]["stdout"] == "there\n"
