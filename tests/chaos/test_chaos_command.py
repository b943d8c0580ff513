"""`mn chaos` as a user runs it: three seeds, each with another form of output, and nothing left behind."""

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
PATIENCE_S = 90  # the start of a stage alone may take 60 s


def test_the_json_document_has_the_schedule_and_no_violations(ground: Ground):
    done = subprocess.run(
        [MN, "chaos", "--seed", "1", *SMALL, "--json"], env=ground.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "mn: seed 1\n"), done.stdout
    document = json.loads(done.stdout)
    planned = plan(1, 12, 0.1)
    assert [(row["at_s"], row["kind"], row["which"]) for row in document["schedule"]] == [
        (strike.at_s, strike.kind, strike.which) for strike in planned.strikes
    ]
    assert document["kills"].keys() == set(Kind)
    assert sum(document["kills"].values()) + document["missed"] == len(planned.strikes)
    assert {flaw: document[flaw] for flaw in Flaw} == dict.fromkeys(Flaw, 0)
    assert document["violations"] == []
    assert ground.left() == []


def test_the_lines_show_the_schedule_the_kills_and_the_result(ground: Ground):
    done = subprocess.run(
        [MN, "chaos", "--seed", "2", *SMALL], env=ground.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "seed 2: 12 jobs in 0.1 min; kills at"
    begun = lines.index("starting a server and nodes for the test")
    assert " ".join(lines[1:begun]).split() == ", ".join(map(str, plan(2, 12, 0.1).strikes)).split()
    over = next(number for number, line in enumerate(lines) if "no more kills: " in line)
    kills = over - begun - 1
    missed = next(line for line in lines if line.startswith("kills without a target")).split()[-1]
    assert kills + int(missed) == len(plan(2, 12, 0.1).strikes)
    assert next(line for line in lines if line.startswith("lost")).split() == ["lost", "0"]
    assert ground.left() == []


def test_a_terminal_shows_the_live_screen(ground: Ground):
    with Terminal([MN, "chaos", "--seed", "3", *SMALL], ground.env) as screen:
        screen.read_until("13/13 ended", PATIENCE_S)  # one of them was started by a blow
        assert screen.end() == 0
    last = screen.text[screen.text.rindex("phase") :]
    assert "recovery" in last
    assert f"of {len(Kind)} (" in last
    assert ground.left() == []


def test_ctrl_c_ends_the_test_and_leaves_nothing_behind(ground: Ground):
    with Terminal([MN, "chaos", "--seed", "4", "--jobs", "5", "--minutes", "5"], ground.env) as screen:
        screen.read_until("killed ", PATIENCE_S)
        screen.press(CTRL_C)
        screen.press(CTRL_C)
        assert screen.end() == 130
    assert ground.left() == []


def has_run(ground: Ground) -> bool:
    """Has a command run on the node `one`? Slots are files that stay; other folders may vanish during the search."""
    return any(path.is_file() for path in ground.folder.glob("mn-chaos-*/one/slots/*/*/*/*"))


def test_a_killed_test_leaves_no_process_behind(ground: Ground):
    with Started("chaos", "--jobs", "5", "--minutes", "5", env=ground.env) as running:
        wait_until(lambda: has_run(ground), PATIENCE_S)
        running.process.kill()
    wait_until(lambda: [name for name in ground.left() if name.isdecimal()] == [] or None)


def test_a_stage_that_cannot_start_says_why_and_leaves_nothing_behind(ground: Ground, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(ground.folder))
    broken = (sys.executable, "-c", "raise SystemExit('no, I will not')")
    with (
        pytest.raises(
            RuntimeUnavailable,
            match=r"node 'one' of the crash test exited with code 1; end of its log:\nno, I will not",
        ),
        raised(broken),
    ):
        pass
    assert ground.left() == []


@pytest.mark.parametrize("as_json", [False, True])
def test_violations_are_shown_and_give_exit_code_1(monkeypatch, capsys, as_json):
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
        document = json.loads(out)
        assert (document["lost"], document["re_runs"], document["kills"]["node"]) == (60, 7, 3)
        assert len(document["violations"]) == 30
    else:
        assert next(line for line in out.splitlines() if line.startswith("lost")).split() == ["lost", "60"]
        assert err.splitlines()[0] == "mn: lost: job-0: gone"
        assert err.splitlines()[-1] == "mn: and 10 more (--json shows all)"


@pytest.mark.parametrize("words", [("--jobs", "0"), ("--minutes", "0"), ("--seed", "x")])
def test_an_invalid_number_is_a_usage_error(ground: Ground, words):
    done = subprocess.run([MN, "chaos", *words], env=ground.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words[0] in done.stderr
