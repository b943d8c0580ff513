"""`mn logs`: the output of commands, on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.cli.commands.logs import LINE_MAX, PREFIX_MAX, Cleaner, Printer
from tests.cli.conftest import MN, ROOT, Mn, Started
from tests.support.graphs import executor, fan, single, until_there
from tests.support.terminal import CTRL_C, Terminal
from tests.support.waiting import wait_until

RAW = "plain\ttext\r\n\x1b[1;31mred\x1b[0m \x1b[Kbar 10%\rbar 20%\n\x1b]0;owned\x07\x9b31m é\n"
CLEAN = "plain\ttext\nred bar 10%\nbar 20%\n\\x1b]0;owned\\x07\\x9b31m é\n"


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    """The path of a file that commands wait for. It is created at the end of the test."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


def printed(client: Client, graph: Any, words: str) -> str:
    """Submit *graph*, wait until its job has printed *words*, and return its id."""
    job_id: str = client.run_manifest(graph, job_id=f"logs-{uuid.uuid4().hex[:8]}")
    wait_until(lambda: words in "".join(chunk["text"] for chunk in client.logs(job_id)))
    return job_id


def chunk(text: str, agent: str = "work", stream: str = "stdout") -> Any:
    return {"agent_id": agent, "stream": stream, "text": text}


def test_the_lines_of_several_agents_begin_with_their_names(mn: Mn, client: Client):
    graph = fan([executor(name, f"echo I am {name}", output_message_type="m") for name in ("one", "other")], "m")
    job_id = printed(client, graph, "I am one")
    client.wait_for_job(job_id, 60_000)
    shown = mn("logs", job_id)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert sorted(shown.stdout.splitlines()) == ["one   | I am one", "other | I am other"]
    assert mn("logs", job_id, "other").stdout == "I am other\n"
    shown = mn("logs", job_id, "--json")
    assert [json.loads(line) for line in shown.stdout.splitlines()] == list(client.logs(job_id))


def test_a_long_agent_name_does_not_widen_the_prefix_of_other_agents(mn: Mn, client: Client):
    long = "o" * (2 * PREFIX_MAX)
    graph = fan([executor(name, "echo here", output_message_type="m") for name in ("one", long)], "m")
    job_id, _ = client.run_manifest(graph, await_=True, timeout=60_000)
    assert sorted(mn("logs", job_id).stdout.splitlines()) == [f"{'one':<{PREFIX_MAX}} | here", f"{long} | here"]


def test_follow_shows_new_output_until_the_job_ends(env, client: Client, gate: Path):
    job_id = printed(client, single(f"echo begun; {until_there(gate)}; printf done"), "begun")
    with Started("logs", job_id, "--follow", env=env) as mn_logs:
        assert mn_logs.line() == "begun\n"
        gate.touch()
        assert mn_logs.process.communicate(timeout=60) == ("done", "")
        assert mn_logs.process.returncode == 0


def test_ctrl_c_ends_follow_without_a_message(env, client: Client, gate: Path):
    job_id = printed(client, single(f"printf '\\033[31mbegun\\033[0m\\007'; {until_there(gate)}"), "begun")
    with Terminal([MN, "logs", job_id, "-f"], env) as screen:
        screen.read_until("begun\\x07")
        screen.press(CTRL_C)
        assert screen.end() == 130
    assert screen.text == "begun\\x07^C\n"
    assert "\x1b" not in screen.raw
    job = client.inspect_job(job_id)
    assert job["status"] == "running", job["result"]


def test_a_closed_stdout_ends_follow_without_a_message(env, client: Client):
    job_id = printed(client, single("seq 20000"), "20000\n")  # more than a pipe holds
    command = [MN, "logs", job_id, "--follow"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1\n"
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)


def test_a_job_without_output_leaves_stdout_empty(mn: Mn, client: Client):
    job_id = client.run_manifest(single("true"))
    shown = mn("logs", job_id)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "mn: there is no output\n")
    shown = mn("logs", job_id, "--json")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")
    ended = mn("logs", job_id, "wrok")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr == f"mn: job '{job_id}' has no agent 'wrok'; its agents: work\n"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_control_characters_are_escaped_however_the_text_is_chunked(size: int):
    cleaner = Cleaner()
    pieces = [RAW[at : at + size] for at in range(0, len(RAW), size)]
    assert "".join(cleaner.clean(piece) for piece in pieces) == CLEAN


def test_lines_of_two_agents_do_not_mix(capsys: pytest.CaptureFixture[str]):
    printer = Printer({"a": "a | ", "b": "b | "})
    pieces = [("a", "one "), ("b", "three\nfo"), ("a", "two\n"), ("b", "ur"), ("a", "")]
    for agent, text in pieces:
        printer.add(chunk(text, agent))
    printer.add(chunk("beside", "b", "stderr"))
    assert capsys.readouterr().out == "b | three\na | one two\n"
    printer.end()
    assert capsys.readouterr().out == "b | four\nb | beside\n"


def test_a_very_long_unfinished_line_is_printed(capsys: pytest.CaptureFixture[str]):
    printer = Printer({"a": "a | ", "b": "b | "})
    printer.add(chunk("x" * LINE_MAX, "a"))
    assert capsys.readouterr().out == ""
    printer.add(chunk("x", "a"))
    assert capsys.readouterr().out == f"a | {'x' * (LINE_MAX + 1)}\n"


def test_the_output_of_one_agent_is_printed_at_once(capsys: pytest.CaptureFixture[str]):
    printer = Printer({})
    printer.add(chunk("10%"))
    assert capsys.readouterr().out == "10%"
    printer.end()
    assert capsys.readouterr().out == ""
