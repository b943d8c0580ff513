"""Executors end to end: attempts, delays, time-outs, and what a command may ask for on its standard output."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.graphs import (
    collector,
    completed,
    ended,
    executor,
    failed,
    is_alive,
    kinds,
    manifest,
    payloads,
    single,
    snapshots,
)
from tests.support.waiting import wait_until


def ms(event: dict) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp() * 1000


def say(tmp_path: Path, **answer: object) -> str:
    """A shell command that prints *answer* as JSON."""
    path = tmp_path / f"answer-{len(list(tmp_path.iterdir()))}"
    path.write_text(json.dumps(answer))
    return f"cat {path}"


def fails_until(tries: int, outside: Path, code: int = 1) -> str:
    """A shell command that counts its runs in a file, and succeeds in the last of *tries*."""
    return f"cd {outside}; echo x >> tries; [ $(wc -l < tries) -ge {tries} ] || exit {code}"


def runs(outside: Path) -> int:
    return len((outside / "tries").read_text().splitlines())


# ------------------------------------------------------------------ attempts


def test_a_message_says_which_attempt_this_is(client):
    script = """grep -o '"attempt":[0-9]*' "$MIRROR_NEURON_MESSAGE_FILE"; false"""
    job = ended(client, single(script, max_attempts=3, retry_backoff_ms=1))
    printed = "".join(chunk["text"] for chunk in client.logs(job["job_id"]))
    assert printed.split() == ['"attempt":1', '"attempt":2', '"attempt":3']


def test_a_failed_run_is_retried_after_a_growing_backoff(client, outside):
    """Two failures and a success: three runs, two `executor_retry`, the second after twice the time."""
    graph = single(fails_until(3, outside), max_attempts=5, retry_backoff_ms=20)
    job = ended(client, graph)
    assert job["status"] == "completed"
    assert (runs(outside), job["result"]["output"]["sandbox"]["attempts"]) == (3, 3)
    told = payloads(client, job["job_id"], "executor_retry")
    assert [(row["attempt"], row["delay_ms"]) for row in told] == [(1, 20), (2, 40)]
    events = client.events(job["job_id"])
    began = [ms(event) for event in events if event["type"] == "executor_lease_acquired"]
    failed_at = [ms(event) for event in events if event["type"] == "executor_retry"]
    assert began[1] - failed_at[0] >= 20
    assert began[2] - failed_at[1] >= 40


def test_no_backoff_is_longer_than_an_hour(client):
    job_id = client.run_manifest(single("false", max_attempts=3, retry_backoff_ms=10**9))
    wait_until(lambda: payloads(client, job_id, "executor_retry"))
    client.cancel(job_id)
    assert [row["delay_ms"] for row in payloads(client, job_id, "executor_retry")] == [3_600_000]


def test_a_run_that_fails_in_its_last_attempt_fails_the_job(client, outside):
    """After `max_attempts` runs, with the last one's exit code and output in the details."""
    script = f"echo out; echo err >&2; {fails_until(9, outside, 7)}"
    result = failed(client, single(script, max_attempts=2, retry_backoff_ms=0))
    assert result["agent_id"] == "work"
    assert result["error"] == "command exited with code 7"
    details = result["details"]
    assert (details["exit_code"], details["stdout"], details["stderr"]) == (7, "out\n", "err\n")
    assert (details["attempts"], runs(outside)) == (2, 2)


@pytest.mark.parametrize(("ending", "tried"), [("exit 1", 1), ("exit 75", 2), ("kill -9 $$", 2)])
def test_retry_on_transient_does_not_retry_permanent_failures(client, outside, ending, tried):
    """A plain failure is not retried; a transient one (EX_TEMPFAIL, a kill) is."""
    script = f"cd {outside}; echo x >> tries; [ $(wc -l < tries) -ge 2 ] || {ending}"
    job = ended(client, single(script, max_attempts=3, retry_on="transient", retry_backoff_ms=0))
    assert job["status"] == ("completed" if tried == 2 else "failed")
    assert runs(outside) == tried


def test_a_backoff_blocks_the_mailbox(client, outside):
    """The failed message is the next one again: no other message overtakes it."""
    script = (
        f"cd {outside}; cat $MIRROR_NEURON_INPUT_FILE >> order; echo x >> tries; [ $(wc -l < tries) -ne 1 ] || exit 1"
    )
    graph = single(script, inputs=["a", "b", "c"], max_attempts=2, retry_backoff_ms=30, complete_job=False)
    job = ended(client, graph)
    assert job["status"] == "completed"
    assert (outside / "order").read_text() == '"a""a""b""c"'


def test_a_startup_delay_delays_only_the_first_run(client, outside):
    """Two messages: the first waits, the second runs at once. The delay does not count as an attempt."""
    script = f"""echo x >> {outside}/tries; grep -o '"attempt":[0-9]*' $MIRROR_NEURON_MESSAGE_FILE"""
    job = ended(client, single(script, inputs=[1, 2], startup_delay_ms=60, complete_job=False))
    events = client.events(job["job_id"])
    began = [ms(event) for event in events if event["type"] == "executor_lease_acquired"]
    assert (runs(outside), len(began)) == (2, 3)
    assert began[1] - began[0] >= 60
    printed = "".join(chunk["text"] for chunk in client.logs(job["job_id"]))
    assert printed.split() == ['"attempt":1', '"attempt":1']
    assert kinds(client, job["job_id"]).count("executor_lease_released") == 3
    assert "executor_retry" not in kinds(client, job["job_id"])


def test_a_timeout_kills_the_command_and_its_children(client, outside):
    script = f"sleep 600 & echo $! > {outside}/child; echo begun; wait"
    result = failed(client, single(script, timeout_seconds=3))
    assert result["error"] == "timed out after 3 s"
    assert result["details"]["stdout"] == "begun\n"
    child = int((outside / "child").read_text())
    wait_until(lambda: not is_alive(child))


# ------------------------------------------------------------------ answers


def test_plain_output_is_the_body(client):
    output = completed(client, single("printf hello; echo oh >&2", inputs={"x": [1, None]}))
    assert output.keys() == {"agent_id", "sandbox", "input"}
    assert (output["agent_id"], output["input"]) == ("work", {"x": [1, None]})
    sandbox = output["sandbox"]
    assert (sandbox["stdout"], sandbox["stderr"], sandbox["logs"]) == ("hello", "oh\n", "hello\noh\n")
    assert (sandbox["exit_code"], sandbox["runner"], sandbox["raw_output"], sandbox["attempts"]) == (
        0,
        "host_local",
        "",
        1,
    )
    assert not Path(sandbox["remote_dir"]).exists()


def test_a_command_may_emit_by_type_or_by_name(client, outside):
    """By type along the edges, or to an agent by name."""
    emits = [
        {"type": "found", "body": {"n": 1}},
        {"type": "note", "to": "second", "payload": "p", "headers": {"h": 1}},
        {"type": "raw", "to": "second", "body_base64": "aGk="},
    ]
    nodes = [
        executor("work", say(outside, emit_messages=emits), output_message_type=None),
        executor("first", "cat $MIRROR_NEURON_INPUT_FILE"),
        executor("second", f"cat $MIRROR_NEURON_BODY_FILE >> {outside}/second; echo >> {outside}/second"),
    ]
    job = ended(client, manifest(nodes, [("work", "first", "found")]))
    output = job["result"]["output"]
    assert output["first"]["sandbox"]["stdout"] == '{"n":1}'
    assert (outside / "second").read_text() == '"p"\nhi\n'


@pytest.mark.parametrize(
    ("emit", "error"),
    [
        ({"type": "found", "to": "frist"}, "emit 'found': no agent 'frist'; did you mean \"first\"?"),
        ({"type": "fuond"}, "emit 'fuond': no edge of 'work' carries this type; did you mean \"found\"?"),
    ],
)
def test_a_message_to_an_unknown_agent_or_of_an_unknown_type_fails_without_a_retry(client, outside, emit, error):
    work = executor("work", say(outside, emit_messages=[emit]), output_message_type=None, max_attempts=3)
    job = ended(client, manifest([work, executor("first", "true")], [("work", "first", "found")]))
    assert (job["status"], job["result"]["error"]) == ("failed", error)
    assert (job["result"]["details"]["attempts"], payloads(client, job["job_id"], "executor_retry")) == (1, [])


def test_an_answer_counts_after_other_text_and_travels_on(client, outside):
    """A print before the answer, and one after it: the next agent gets its mail."""
    emit = say(outside, emit_messages=[{"type": "found", "body": {"n": 1}}])
    nodes = [
        executor("work", f"echo loading; {emit}; echo; echo bye", output_message_type=None),
        executor("next", f"cat {{input_file}}; printf 'done: '; {say(outside, complete_job={'rows': 3})}"),
    ]
    assert completed(client, manifest(nodes, [("work", "next", "found")])) == {"rows": 3}


@pytest.mark.parametrize("file", ['"$MIRROR_NEURON_ANSWER_FILE"', '"$MN_ANSWER_FILE"', "{answer_file}"])
def test_an_answer_in_the_file_replaces_one_on_stdout(client, outside, file):
    script = f"{say(outside, complete_job=1)} > {file}; {say(outside, complete_job=2, next_state=3)}"
    job = ended(client, single(script, complete_job=False))
    assert (job["status"], job["result"]["output"]) == ("completed", 1)
    assert snapshots(client, job["job_id"])["work"]["current_state"] == {}


def test_an_empty_answer_in_the_file_makes_all_output_plain(client, outside):
    script = f"echo '{{}}' > $MN_ANSWER_FILE; {say(outside, complete_job=2)}"
    assert completed(client, single(script))["sandbox"]["stdout"] == '{"complete_job": 2}'


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (
            """printf '{"complete_job": {"rows"' > $MN_ANSWER_FILE""",
            "MIRROR_NEURON_ANSWER_FILE: is not valid JSON: EOF while parsing an object at line 1 column 24; was it",
        ),
        ("mkdir $MN_ANSWER_FILE", "MIRROR_NEURON_ANSWER_FILE: is not a regular file"),
        (
            "truncate -s 20M $MN_ANSWER_FILE",
            "MIRROR_NEURON_ANSWER_FILE: has 20971520 bytes, more than MIRROR_NEURON_MAX_MESSAGE_BYTES (8388608)",
        ),
        (
            """echo '{"emit_messages": 5}' > $MN_ANSWER_FILE""",
            "MIRROR_NEURON_ANSWER_FILE: emit_messages: must be a list",
        ),
        (
            """echo loading; echo "{'complete_job': 1}" """,
            "stdout: contains complete_job, but is not valid JSON: key must be a string at line 2 column 2; print",
        ),
        (
            r"""printf '{"complete_job": "caf\351"}'""",
            "stdout: contains an answer that is not UTF-8; print it in UTF-8",
        ),
        (
            """echo note; echo '{"complete_job": 1}' >&2""",
            "stderr: contains an answer, which is not read there; print it to stdout",
        ),
    ],
)
def test_an_answer_that_cannot_be_carried_out_fails_the_run(client, script, error):
    result = failed(client, single(script))
    assert result["error"].startswith(error)
    assert result["details"]["exit_code"] == 0


def test_a_log_on_stderr_is_no_answer(client):
    script = """echo '{"level": "info", "next_state": "RUNNING"}' >&2; echo 'x {"complete_job": 1}' >&2"""
    assert completed(client, single(script))["sandbox"]["stdout"] == ""


def test_an_answer_behind_cut_output_counts_and_one_that_may_be_cut_fails(client, outside):
    """Only the beginning and the end of the output are kept."""
    noise = "head -c 3000000 /dev/zero | tr '\\0' x; echo"
    answer = say(outside, complete_job={"rows": 3})
    assert completed(client, single(f"echo begun; {noise}; {answer}", complete_job=False)) == {"rows": 3}
    error = failed(client, single(f"{noise}; {answer}; echo; {noise}"))["error"]
    sizes = "6000032 bytes exceed MIRROR_NEURON_MAX_OUTPUT_BYTES (1048576)"
    assert error == f"stdout: contains complete_job, but was truncated: {sizes}; print less or raise the limit"


def test_a_command_may_write_events_and_keep_a_state(client, outside):
    """`next_state` is in the context file of the agent's next run; `events` are among the job's events."""
    answer = say(outside, next_state={"seen": [1]}, events=[{"type": "noted", "payload": {"k": 1}}, {"type": "bare"}])
    script = f"cat $MIRROR_NEURON_CONTEXT_FILE >> {outside}/contexts; echo >> {outside}/contexts; {answer}"
    job = ended(client, single(script, inputs=[1, 2], complete_job=False))
    contexts = [json.loads(row) for row in (outside / "contexts").read_text().splitlines()]
    assert [context["agent_state"] for context in contexts] == [{}, {"seen": [1]}]
    assert (contexts[0]["job_id"], contexts[0]["agent_id"]) == (job["job_id"], "work")
    assert payloads(client, job["job_id"], "noted") == [{"k": 1}, {"k": 1}]
    assert payloads(client, job["job_id"], "bare") == [None, None]
    assert snapshots(client, job["job_id"])["work"]["current_state"] == {"seen": [1]}


def test_a_command_may_complete_the_job(client, outside):
    """With its own output, which replaces the default one."""
    assert completed(client, single(say(outside, complete_job={"sum": 3}), complete_job=False)) == {"sum": 3}
    by_default = completed(client, single(say(outside, **{"complete_job?": True}), complete_job=False))
    assert by_default["agent_id"] == "work"
    assert completed(client, single(say(outside, **{"complete_job": [1], "complete_job?": True}))) == [1]


def test_structured_output_of_a_failed_run_takes_no_effect(client, outside):
    """Its events and messages are dropped, because the run is retried."""
    script = f"cd {outside}; {say(outside, events=[{'type': 'noted'}])}; echo x >> tries; [ $(wc -l < tries) -ge 2 ]"
    job = ended(client, single(script, max_attempts=2, retry_backoff_ms=0))
    assert len(payloads(client, job["job_id"], "noted")) == 1


def test_the_next_state_of_a_failed_run_is_dropped(client, outside):
    """It had been parsed before a condition on the emitted message failed."""
    bad = say(outside, next_state={"body": "x"}, emit_messages=[{"type": "t", "body": "x"}])
    good = say(outside, next_state={"body": 1}, emit_messages=[{"type": "t", "body": 1}])
    script = (
        f"cat $MIRROR_NEURON_CONTEXT_FILE >> {outside}/contexts; echo >> {outside}/contexts; "
        f"if mkdir {outside}/tried; then {bad}; else {good}; fi"
    )
    work = executor("work", script, output_message_type=None, max_attempts=2, retry_backoff_ms=0)
    edges = [("work", "end", "t", {"conditions": {"expr": "abs(body) > `0`"}})]
    job = ended(client, manifest([work, collector("end")], edges))
    assert job["status"] == "completed", job["result"]
    contexts = [json.loads(row) for row in (outside / "contexts").read_text().splitlines()]
    assert [context["agent_state"] for context in contexts] == [{}, {}]
    assert snapshots(client, job["job_id"])["work"]["current_state"] == {"body": 1}


def test_without_an_output_type_the_result_is_emitted_as_executor_result(client):
    """With `output_message_type: null` nothing is emitted."""
    nodes = [executor("one", "echo 1"), executor("two", "cat $MIRROR_NEURON_INPUT_FILE", complete_job=True)]
    graph = manifest(nodes, [("one", "two", "executor_result")])
    body = json.loads(completed(client, graph)["sandbox"]["stdout"])
    assert (body["agent_id"], body["sandbox"]["stdout"]) == ("one", "1\n")
    graph["nodes"][0] = executor("one", "echo 1", output_message_type=None)
    assert completed(client, {**graph, "policies": {"on_idle": "complete"}}) == {}


def test_a_command_reads_its_input_from_files_and_variables(client):
    """Placeholders in a list of words are replaced; hardly any of the node's environment is passed on."""
    command = [
        "sh",
        "-c",
        'cat "$1"; echo " $MIRROR_NEURON_AGENT_ID $GREETING ${VIRTUAL_ENV-none}"',
        "x",
        "{input_file}",
    ]
    graph = single("true", inputs={"a": 1}, environment={"GREETING": "hi"})
    graph["nodes"][0]["config"]["command"] = command
    assert completed(client, graph)["sandbox"]["stdout"] == '{"a":1} work hi none\n'
