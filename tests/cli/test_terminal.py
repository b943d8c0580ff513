"""Commands on a terminal: live progress, colours, and Ctrl-C."""

from __future__ import annotations

import re
import uuid

import pytest

from tests.cli.conftest import MN, RESEARCH, Bundle, Mn
from tests.support.terminal import COLOURS, CTRL_C, Terminal


def test_a_run_shows_its_progress_then_the_result_then_the_next_commands(env, gate):
    with Terminal([MN, "run", str(gate), "--job-id", "watched"], env) as screen:
        screen.read_until("0/1 done, 1 busy, 0 queued")
        screen.read_until("executor_lease_acquired only")
        assert "running" in screen.text
        assert '"agent_id"' not in screen.text
        gate.open()
        assert screen.end() == 0
    last = screen.text[screen.text.rindex("agents ") :]
    assert "1/1 done, 0 busy, 0 queued" in last
    assert "1 processed" in last
    assert last.index('"exit_code": 0') < last.index("Next: mn events watched")
    assert COLOURS.search(screen.raw)


def test_ctrl_c_keeps_the_last_view_and_the_job(env, gate, mn: Mn):
    with Terminal([MN, "run", str(gate), "--job-id", "left"], env) as screen:
        screen.read_until("1 busy")
        screen.press(CTRL_C)
        assert screen.end() == 130
    assert screen.text.endswith("mn: the job continues: mn wait left\n")
    gate.open()
    with Terminal([MN, "wait", "left"], env) as screen:
        assert screen.end() == 0
    assert '"exit_code": 0' in screen.text


@pytest.mark.parametrize("command", [["run", RESEARCH], ["job", "list"], ["node", "list"]])
def test_no_color_turns_colours_off(env, command):
    with Terminal([MN, *command], {**env, "NO_COLOR": "1"}) as screen:
        assert screen.end() == 0
    assert not COLOURS.search(screen.raw)


def test_a_long_result_is_cut_on_a_terminal_only(env, tmp_path, mn: Mn):
    only = {"node_id": "only", "agent_type": "aggregator", "config": {"complete_after": 1}}
    inputs = {"only": [{"numbers": list(range(100))}]}
    bundle = Bundle(tmp_path / "long").write({"nodes": [only], "edges": [], "initial_inputs": inputs})
    with Terminal([MN, "run", str(bundle), "--job-id", "long"], env) as screen:
        assert screen.end() == 0
    assert "more lines: mn job inspect long" in screen.text
    assert " 99" not in screen.text
    assert " 99" in mn("wait", "long").stdout


def test_a_failed_run_prints_the_error_last(env, failing):
    with Terminal([MN, "run", failing, "--job-id", "broke"], env) as screen:
        assert screen.end() == 1
    assert "mn: job broke failed: only: " in screen.text


def test_json_stays_json_on_a_terminal(env):
    with Terminal([MN, "job", "list", "--json"], env) as screen:
        assert screen.end() == 0
    assert "\x1b" not in screen.raw


def test_mark_up_in_a_bundle_is_shown_as_text(env, tmp_path, mn: Mn):
    only = {"node_id": "only", "agent_type": "aggregator", "config": {"complete_after": 1}}
    bundle = Bundle(tmp_path / "marked").write({"job_name": "[red]not red[/red]", "nodes": [only], "edges": []})
    mn("run", str(bundle), "--job-id", "marked")
    with Terminal([MN, "job", "list", "--limit", "1"], env, columns=200) as screen:
        assert screen.end() == 0
    assert "[red]not red[/red]" in screen.text


def test_a_narrow_terminal_shows_whole_ids_and_drops_columns(env, mn: Mn):
    """The id must be complete, to be copied; the name is dropped."""
    job = f"prime_sweep_scale-1795616906040-{uuid.uuid4().hex[:12]}"
    mn("run", RESEARCH, "--job-id", job)
    shown = {}
    for columns in (80, 160):
        with Terminal([MN, "job", "list", "--limit", "1"], env, columns=columns) as screen:
            assert screen.end() == 0
        shown[columns] = next(line for line in screen.text.splitlines() if job in line)
    assert re.search(r"completed +(a moment|\d+ \w+) ago *$", shown[80])
    assert shown[160].endswith("Research flow ")
