"""The output of commands in a pipe: JSON documents, and plain text in columns."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest

from mirrorneuron.cli import output
from tests.cli.conftest import MN, RESEARCH, ROOT, Bundle, Mn


@pytest.fixture
def job(mn: Mn) -> str:
    """A completed job."""
    ended = mn("run", RESEARCH, "--job-id", "shown")
    assert ended.returncode == 0, ended.stderr
    return "shown"


def test_each_reading_command_prints_what_the_client_returns(mn: Mn, client, job):
    assert json.loads(mn("run", RESEARCH, "--job-id", job, "--json").stdout) == client.inspect_job(job)
    assert json.loads(mn("wait", job, "--json").stdout) == client.inspect_job(job)
    assert json.loads(mn("job", "inspect", job, "--json").stdout) == client.inspect_job(job)
    assert json.loads(mn("agent", "list", job, "--json").stdout) == client.inspect_agents(job)
    assert json.loads(mn("events", job, "--json").stdout) == client.events(job)
    assert json.loads(mn("job", "list", "--json", "--limit", "1").stdout) == client.list_jobs(limit=1)
    nodes = json.loads(mn("node", "list", "--json").stdout)
    assert [node["name"] for node in nodes] == [node["name"] for node in client.inspect_nodes()]


def test_tables_are_aligned_and_have_a_heading(mn: Mn, job):
    heading, *rows = mn("agent", "list", job).stdout.splitlines()
    assert heading.split() == ["AGENT", "TYPE", "STATUS", "MAIL", "PROCESSED", "NODE", "ERROR"]
    assert [row.split()[0] for row in rows] == ["ingress", "retriever", "reviewer"]
    for column in ("STATUS", "NODE"):
        at = heading.index(column)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows)


def test_lists_name_jobs_and_nodes(mn: Mn, node, job):
    assert any(line.startswith("shown ") and "completed" in line for line in mn("job", "list").stdout.splitlines())
    shown = mn("node", "list").stdout
    assert re.search(r"default [012]/2 ", shown)
    assert f"light@{node.settings.redis_namespace}" in shown


def test_a_list_can_be_filtered(mn: Mn, job, endless):
    mn("run", endless, "--no-await", "--job-id", "alive")
    names = [name["job_id"] for name in json.loads(mn("job", "list", "--live", "--json", "--limit", "0").stdout)]
    assert "alive" in names
    assert job not in names
    completed = json.loads(mn("job", "list", "--status", "completed", "--json").stdout)
    assert {found["status"] for found in completed} == {"completed"}


def test_an_inspected_job_shows_its_fields_and_its_result(mn: Mn, job):
    shown = mn("job", "inspect", job).stdout
    fields = dict(line.split(maxsplit=1) for line in shown.partition("\n\n")[0].splitlines())
    assert (fields["job_id"], fields["status"], fields["daemon"]) == (job, "completed", "no")
    assert json.loads(shown.partition("\n\n")[2])["agent_id"] == "reviewer"


def test_a_pipe_gets_no_colours_whatever_the_environment(cold_mn: Mn, env, job):
    for command in (["job", "list"], ["job", "inspect", job], ["wait", job], ["events", job]):
        assert "\x1b" not in cold_mn(*command, env={**env, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}).stdout


def test_control_characters_of_a_bundle_are_escaped(mn: Mn, tmp_path):
    evil = "\x1b]0;owned\x07\x9b31m"
    only = {"node_id": "only", "agent_type": "aggregator", "config": {"complete_after": 1}}
    bundle = Bundle(tmp_path / "evil").write({"job_name": evil, "nodes": [only], "edges": []})
    assert mn("run", str(bundle), "--job-id", "evil").returncode == 0
    for command in (["job", "list"], ["job", "inspect", "evil"], ["validate", str(bundle)]):
        shown = mn(*command).stdout
        assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert "\\x1b]0;owned\\x07\\x9b31m" in mn("job", "inspect", "evil").stdout


def test_json_is_valid_for_any_encoding_of_stdout(cold_mn: Mn, env, tmp_path):
    only = {"node_id": "only", "agent_type": "aggregator", "config": {"complete_after": 1}}
    bundle = Bundle(tmp_path / "text").write({"job_name": "Überfluß 🚀", "nodes": [only], "edges": []})
    for encoding in ("utf-8", "ascii"):
        ended = cold_mn("run", str(bundle), "--json", env={**env, "PYTHONIOENCODING": encoding})
        assert json.loads(ended.stdout)["job_name"] == "Überfluß 🚀"


def test_a_reader_that_closes_stdout_early_causes_no_message(env, job):
    with subprocess.Popen(
        [MN, "events", job], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 128 + signal.SIGPIPE


def test_a_valid_bundle_is_counted_and_its_warnings_listed(mn: Mn):
    shown = json.loads(mn("validate", RESEARCH, "--json").stdout)
    assert shown == {
        "valid": True,
        "issues": [],
        "warnings": [],
        "graph_id": "research_flow",
        "nodes": 3,
        "edges": 2,
    }
    assert mn("validate", RESEARCH).stdout == "research_flow is valid: 3 nodes, 2 edges\n"


def test_an_invalid_bundle_is_reported_as_json(mn: Mn, tmp_path):
    ended = mn("validate", str(tmp_path), "--json")
    assert (ended.returncode, ended.stderr) == (2, "")
    shown = json.loads(ended.stdout)
    assert shown["valid"] is False
    assert "manifest.json" in shown["issues"][0]["message"]


def test_graphs_of_folders_and_jobs(mn: Mn, job):
    """Only the graph of a job marks the state of each agent."""
    assert mn("graph", RESEARCH).stdout.startswith("flowchart LR\n")
    assert ":::done" not in mn("graph", RESEARCH).stdout
    assert ":::done" in mn("graph", job).stdout
    assert mn("graph", job, "--format", "dot").stdout.startswith('digraph "research_flow" {\n')
    drawing = mn("graph", job, "--format", "svg").stdout
    assert drawing.startswith("<svg ")
    assert "ingress: router, done" in drawing
    shown = json.loads(mn("graph", job, "--json").stdout)
    assert (shown["graph_id"], shown["format"]) == ("research_flow", "mermaid")


@pytest.mark.parametrize("text", ["a\u202eb", "\x1b[2J", "\x7f", "\x9b31m", "\u2066x\u2069", "\U000e0041", "\u200f"])
def test_no_line_and_no_document_holds_a_character_that_a_terminal_misreads(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """U+202E shows what follows from right to left. JSON stays JSON."""
    monkeypatch.setattr(output, "on_terminal", lambda: False)
    output.document({"é": [text]})
    document = capsys.readouterr().out
    assert json.loads(document) == {"é": [text]}
    output.line(f"é {text}\nsecond")
    output.result(text, "more")
    output.fields({"name": text})
    output.table(["name"], [[text]])
    shown = document + capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "é" in shown
    assert "\nsecond\n" in shown
