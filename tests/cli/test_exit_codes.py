"""Every exit code, and the line that is printed with it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from mirrorneuron.cli import exits
from mirrorneuron.job import JobStatus
from tests.cli.conftest import MN, RESEARCH, Bundle, Mn, last_line

READERS = (
    "wait",
    "job inspect",
    "agent list",
    "events",
    "events --follow",
    "graph",
    "logs",
    "logs --follow",
    "dead-letters",
)


def test_a_completed_job_exits_0_with_its_result_on_stdout_and_its_id_first_on_stderr(mn: Mn):
    ended = mn("run", RESEARCH)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["agent_id"] == "reviewer"
    assert ended.stderr.splitlines()[0].startswith("mn: job research_flow-")


def test_a_failed_job_exits_1_and_says_why(mn: Mn, failing):
    ended = mn("run", failing)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["details"]["stderr"] == "broken\n"
    assert "failed: only: " in last_line(ended.stderr)


def test_waiting_for_a_job_that_has_failed_exits_1_too(mn: Mn, failing):
    mn("run", failing, "--job-id", "wait-for-failed")
    assert mn("wait", "wait-for-failed").returncode == 1


@pytest.mark.parametrize("status", JobStatus)
def test_only_failed_and_cancelled_jobs_exit_1(status):
    code = exits.code_of_job({"status": status})  # type: ignore[typeddict-item]
    assert (code == 1) is (status in ("failed", "cancelled"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "--frobnicate"], "mn: No such option: --frobnicate (see `mn run --help`)"),
        (["runn"], "mn: No such command 'runn'. Did you mean 'run'? (see `mn --help`)"),
        (["wait"], "mn: Missing argument 'JOB'. (see `mn wait --help`)"),
        (["run", RESEARCH, "--no-await", "--timeout", "5"], "mn: Invalid value: --timeout"),
        (["wait", "x", "--timeout", "-1"], "mn: Invalid value for '--timeout'"),
        (["job", "list", "--status", "lost"], "mn: Invalid value for '--status'"),
        (["run", RESEARCH, "--job-id", "a b"], "mn: job_id: 'a b' is not a valid job id"),
        (["wait", "x", "--timeout", "nan"], "mn: Invalid value for '--timeout'"),
        (["events", "x", "--after", "soon"], "mn: Invalid value for '--after': after must be the id of an event"),
        (["events", "x", "--limit", "9" * 30], "mn: Invalid value for '--limit'"),
        (["job", "inspect", "\udcff"], "mn: Invalid value for 'JOB': '\\udcff' is not UTF-8"),
        (["cancel", "x", "--reason", "\udcff"], "mn: Invalid value for '--reason': '\\udcff' is not UTF-8"),
    ],
)
def test_bad_usage_exits_2_with_one_line(mn: Mn, args, said):
    ended = mn(*args)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(said)
    assert len(ended.stderr.splitlines()) == 1


def test_an_invalid_bundle_exits_2_with_one_line_for_each_issue(mn: Mn, tmp_path):
    bundle = Bundle(tmp_path / "bad").write({"nodes": [{"node_id": "only", "agent_type": "rooter"}], "edges": [{}]})
    for command in ("validate", "run", "graph"):
        ended = mn(command, str(bundle))
        assert ended.returncode == 2
        lines = ended.stderr.splitlines()
        assert len(lines) > 2
        assert all(line.startswith("mn: ") for line in lines)
        assert any("nodes[0].agent_type" in line and "router" in line for line in lines)


@pytest.mark.parametrize("given", ["a file", "no folder", "no manifest", "invalid JSON", "not an object"])
def test_a_path_that_is_not_a_bundle_exits_2(mn: Mn, tmp_path, given):
    folder = tmp_path / "bundle"
    if given != "no folder":
        folder.mkdir()
    if given in ("a file", "invalid JSON", "not an object"):
        (folder / "manifest.json").write_text('{"a": ' if given == "invalid JSON" else "[]")
    ended = mn("validate", str(folder / "manifest.json" if given == "a file" else folder))
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


def test_a_job_id_of_another_bundle_exits_2(mn: Mn, endless):
    assert mn("run", RESEARCH, "--job-id", "taken").returncode == 0
    ended = mn("run", endless, "--job-id", "taken")
    assert ended.returncode == 2
    assert "already exists" in last_line(ended.stderr)


def test_a_bad_setting_exits_2_and_names_the_variable(mn: Mn, env):
    ended = mn("job", "list", env={**env, "MIRROR_NEURON_CLAIM_LEASE_MS": "soon"})
    assert ended.returncode == 2
    assert ended.stderr.startswith("mn: MIRROR_NEURON_CLAIM_LEASE_MS: ")


@pytest.mark.parametrize("command", ["job list", "run", "down"])
def test_an_unusable_home_exits_2_and_names_the_variable(mn: Mn, nowhere, command):
    words = [*command.split(), *([RESEARCH] if command == "run" else [])]
    ended = mn(*words, env={**nowhere, "MIRROR_NEURON_HOME": "/" + "x" * 300})
    assert ended.returncode == 2
    assert ended.stderr.startswith("mn: MIRROR_NEURON_HOME: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", READERS)
def test_an_unknown_job_exits_3_at_once(mn: Mn, command):
    ended = mn(*command.split(), "nobody")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("mn: no job 'nobody'")
    assert len(ended.stderr.splitlines()) == 1


def test_a_wait_that_times_out_exits_4_and_the_job_continues(mn: Mn, endless):
    ended = mn("run", endless, "--timeout", "50", "--job-id", "slow")
    assert ended.returncode == 4
    assert "slow" in last_line(ended.stderr)
    assert mn("wait", "slow", "--timeout", "0").returncode == 4
    assert json.loads(mn("job", "inspect", "slow", "--json").stdout)["status"] in ("pending", "running")


@pytest.mark.parametrize("command", [f"run {RESEARCH}", *(f"{r} x" for r in READERS), "job list", "node list"])
def test_an_unreachable_server_exits_5_and_is_named(mn: Mn, unreachable, command):
    ended = mn(*command.split(), env=unreachable)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert unreachable["MIRROR_NEURON_REDIS_URL"] in ended.stderr
    assert "MIRROR_NEURON_REDIS_URL" in last_line(ended.stderr)
    assert len([line for line in ended.stderr.splitlines() if "warning: " not in line]) == 1


@pytest.mark.parametrize("command", ["job list", "wait x", "worker", "dashboard --port 1"])
def test_without_any_server_a_command_exits_5_and_says_what_to_do(mn: Mn, nowhere, command):
    """Only `run` and `up` start a server."""
    ended = mn(*command.split(), env=nowhere)
    assert (ended.returncode, ended.stdout) == (5, "")
    for words in (nowhere["MIRROR_NEURON_HOME"], "mn up", "mn run", "MIRROR_NEURON_REDIS_URL"):
        assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_invalid_job_id_is_reported_before_anything_starts(mn: Mn, nowhere):
    ended = mn("run", RESEARCH, "--job-id", "a b", env=nowhere)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        last_line(ended.stderr)
        == "mn: job_id: 'a b' is not a valid job id (use 1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit)"
    )
    assert not Path(nowhere["MIRROR_NEURON_HOME"]).exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "run --help", "--version", f"validate {RESEARCH}", "job list --json"])
def test_a_full_disk_behind_stdout_exits_74_with_one_line(env, command, unbuffered):
    env = {**env, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        ended = subprocess.run([MN, *command.split()], env=env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (74, "mn: cannot write to stdout: No space left on device\n")


@pytest.mark.parametrize("command", ["--help", "run --help", "--version", f"validate {RESEARCH}", "job list --json"])
def test_a_closed_stdout_exits_141_without_a_message(env, command):
    readable, writable = os.pipe()
    os.close(readable)
    with open(writable, "w") as pipe:
        ended = subprocess.run([MN, *command.split()], env=env, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_log_warnings_are_printed_like_other_messages(mn: Mn, env, unreachable, endless):
    """The job is submitted while its broker is unreachable."""
    ended = mn(
        "run", endless, "--no-await", env={**env, "MIRROR_NEURON_BROKER_URL": unreachable["MIRROR_NEURON_REDIS_URL"]}
    )
    assert ended.returncode == 0
    assert any(
        line.startswith("mn: error: job ") and "its announcement failed" in line for line in ended.stderr.splitlines()
    )
    assert all(line.startswith("mn: ") for line in ended.stderr.splitlines())


def test_a_known_error_shows_its_traceback_only_with_verbose(mn: Mn):
    assert "Traceback" not in mn("wait", "nobody").stderr
    for args in (["-v", "wait", "nobody"], ["wait", "nobody", "--verbose"]):
        ended = mn(*args)
        assert ended.returncode == 3
        assert "Traceback" in ended.stderr
        assert last_line(ended.stderr) == "mn: no job 'nobody'"
