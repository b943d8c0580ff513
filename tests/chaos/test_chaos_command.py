"""`mn chaos` as a user has it: three seeds, each told in another way, and nothing left of any."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext

import pytest
import typer

from mirrorneuron.chaos.driver import Report
from mirrorneuron.chaos.invariants import Flaw, Violation
from mirrorneuron.chaos.schedule import Kind, plan
from mirrorneuron.chaos.stage import raised
from mirrorneuron.cli.commands import chaos as command
from mirrorneuron.errors import RuntimeUnavailable
from tests.chaos.conftest import Ground
from tests.cli.conftest import MN, Started
from tests.support.terminal import CTRL_C, Terminal
from tests.support.waiting import wait_until

SMALL = ("--jobs", "12", "--minutes", "0.1")
PATIENCE_S = 90  # of which the start of a stage may take 60


def test_a_document_tells_all_and_all_is_zero(ground: Ground):
    done = subprocess.run(
        [MN, "chaos", "--seed", "1", *SMALL, "--json"], env=ground.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "mn: seed 1\n"), done.stdout
    told = json.loads(done.stdout)
    planned = plan(1, 12, 0.1)
    assert [(row["at_s"], row["kind"], row["which"]) for row in told["schedule"]] == [
        (strike.at_s, strike.kind, strike.which) for strike in planned.strikes
    ]
    assert told["kills"].keys() == set(Kind)
    assert sum(told["kills"].values()) + told["missed"] == len(planned.strikes)
    assert {flaw: told[flaw] for flaw in Flaw} == dict.fromkeys(Flaw, 0)
    assert told["violations"] == []
    assert ground.left() == []


def test_lines_tell_the_schedule_what_happens_and_the_result(ground: Ground):
    done = subprocess.run(
        [MN, "chaos", "--seed", "2", *SMALL], env=ground.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "seed 2: 12 jobs in 0.1 min; kills at"
    assert " ".join(lines[1:3]).split() == ", ".join(map(str, plan(2, 12, 0.1).strikes)).split()
    peace = next(number for number, line in enumerate(lines) if "peace: " in line)
    told = sum("killed " in line or "froze " in line for line in lines[:peace])
    missed = next(line for line in lines if line.startswith("kills without a target")).split()[-1]
    assert told + int(missed) == len(plan(2, 12, 0.1).strikes)
    assert next(line for line in lines if line.startswith("lost")).split() == ["lost", "0"]
    assert ground.left() == []


def test_a_terminal_shows_a_picture(ground: Ground):
    with Terminal([MN, "chaos", "--seed", "3", *SMALL], ground.env) as screen:
        screen.read_until("12/12 ended", PATIENCE_S)
        assert screen.end() == 0
    last = screen.text[screen.text.rindex("phase") :]
    assert "recovery" in last
    assert "of 8 (" in last
    assert ground.left() == []


def test_ctrl_c_ends_it_and_leaves_nothing(ground: Ground):
    with Terminal([MN, "chaos", "--seed", "4", "--jobs", "5", "--minutes", "5"], ground.env) as screen:
        screen.read_until("killed ", PATIENCE_S)
        screen.press(CTRL_C)
        screen.press(CTRL_C)
        assert screen.end() == 130
    assert ground.left() == []


def has_run(ground: Ground) -> bool:
    """Has a command run on the node `one`? Its slots are files; elsewhere folders may vanish while one looks."""
    return any(path.is_file() for path in ground.folder.glob("mn-chaos-*/one/slots/*/*/*/*"))


def test_a_killed_one_leaves_no_process(ground: Ground):
    with Started("chaos", "--jobs", "5", "--minutes", "5", env=ground.env) as running:
        wait_until(lambda: has_run(ground), PATIENCE_S)
        running.process.kill()
    wait_until(lambda: [name for name in ground.left() if name.isdecimal()] == [] or None)


def test_a_stage_that_does_not_come_up_says_why_and_leaves_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(ground.folder))
    broken = (sys.executable, "-c", "raise SystemExit('no, I will not')")
    with pytest.raises(RuntimeUnavailable, match=r"ended by itself with code 1:\nno, I will not"), raised(broken):
        pass
    assert ground.left() == []


@pytest.mark.parametrize("as_json", [False, True])
def test_a_violation_is_told_and_makes_exit_code_1(monkeypatch, capsys, as_json):
    class Failing:
        def __init__(self, _stage, planned, _audience):
            self.planned = planned

        def run(self) -> Report:
            found = [Violation(Flaw.LOST, f"job-{n}", "gone", 2) for n in range(30)]
            return Report(self.planned, 1.0, Counter({Kind.NODE: 3}), 5, 7, tuple(found))

    monkeypatch.setattr(command, "raised", lambda _argv: nullcontext())
    monkeypatch.setattr(command, "Driver", Failing)
    with pytest.raises(typer.Exit) as ended:
        command.chaos(seed=1, jobs=12, minutes=0.1, json=as_json)
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    if as_json:
        told = json.loads(out)
        assert (told["lost"], told["re_runs"], told["kills"]["node"], len(told["violations"])) == (60, 7, 3, 30)
    else:
        assert next(line for line in out.splitlines() if line.startswith("lost")).split() == ["lost", "60"]
        assert err.splitlines()[0] == "mn: lost: job-0: gone"
        assert err.splitlines()[-1] == "mn: and 10 more (--json shows all)"


@pytest.mark.parametrize("words", [("--jobs", "0"), ("--minutes", "0"), ("--seed", "x")])
def test_bad_numbers_are_bad_usage(ground: Ground, words):
    done = subprocess.run([MN, "chaos", *words], env=ground.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words[0] in done.stderr
