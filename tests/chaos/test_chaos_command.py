"""`mn chaos` as a user runs it, in each form of output: whole tests, and tests that are ended. None leaves anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path

import pytest
import typer

from mirrorneuron.chaos import clock
from mirrorneuron.chaos.driver import Report
from mirrorneuron.chaos.invariants import Flaw, Violation
from mirrorneuron.chaos.schedule import Kind, Schedule, plan
from mirrorneuron.chaos.stage import raised
from mirrorneuron.cli.commands import chaos as command
from mirrorneuron.errors import RuntimeUnavailable
from tests.chaos.conftest import Ground
from tests.cli.conftest import MN, Started
from tests.support.terminal import CTRL_C, Terminal
from tests.support.waiting import wait_until

SMALL = ("--jobs", "12", "--minutes", "0.1")
PATIENCE_S = 90  # the start of a stage alone may take 60 s


@pytest.fixture(scope="module", autouse=True)
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, Started]]:
    """A whole test beside the others: no crash test disturbs another one."""
    ground = Ground(tmp_path_factory.mktemp("beside"))
    with Started("chaos", "--seed", "1", *SMALL, "--json", env=ground.env) as running:
        yield ground, running


def possible(planned: Schedule) -> Schedule:
    """The schedule as `mn chaos` carries it out on this machine."""
    return planned if clock.library() else planned.without(Kind.CLOCK)


def test_a_terminal_shows_the_schedule_the_live_screen_and_the_result(ground: Ground):
    with Terminal([MN, "chaos", "--seed", "3", *SMALL], ground.env) as screen:
        screen.read_until("13/13 ended", PATIENCE_S)  # one of them was started by a blow
        assert screen.end() == 0
    planned = possible(plan(3, 12, 0.1))
    schedule, _, shown = screen.text.partition("starting a server and nodes for the test")
    assert schedule.split() == f"seed 3: 12 jobs in 0.1 min; kills at {', '.join(map(str, planned.strikes))}".split()
    last = shown[shown.rindex("phase") :]
    assert "recovery" in last
    assert f"of {len(planned.strikes)} (" in last
    result = dict(line.split("  ", 1) for line in last.splitlines() if "  " in line)
    assert int(result["kills"].split()[0]) + int(result["kills without a target"]) == len(planned.strikes)
    assert result["lost"].strip() == result["stuck"].strip() == "0"
    assert ground.left() == []


def has_run(ground: Ground) -> bool:
    """Has a command run on the node `one`? Slots are files that stay; other folders may vanish during the search."""
    return any(path.is_file() for path in ground.folder.glob("mn-chaos-*/one/slots/*/*/*/*"))


def test_a_killed_test_leaves_no_process_behind_and_one_that_is_interrupted_nothing(tmp_path: Path):
    """Both at once. The first one has shown its schedule and its kills as lines."""
    (tmp_path / "killed").mkdir()
    killed = Ground(tmp_path / "killed")
    (tmp_path / "interrupted").mkdir()
    interrupted = Ground(tmp_path / "interrupted")
    words = ("--seed", "2", "--jobs", "5", "--minutes", "5")
    with (
        Started("chaos", *words, env=killed.env) as running,
        Terminal([MN, "chaos", "--jobs", "5", "--minutes", "5"], interrupted.env) as screen,
    ):
        screen.read_until("killed ", PATIENCE_S)
        screen.press(CTRL_C)
        screen.press(CTRL_C)
        assert screen.end() == 130
        assert interrupted.left() == []
        lines = iter(running.line, "")
        schedule = " ".join(takewhile(lambda line: line != "starting a server and nodes for the test\n", lines))
        planned = possible(plan(2, 5, 5))
        assert schedule.split() == f"seed 2: 5 jobs in 5 min; kills at {', '.join(map(str, planned.strikes))}".split()
        assert re.match(r" *\d+\.\d s  \S+ ", next(lines))
        wait_until(lambda: has_run(killed), PATIENCE_S)
        running.process.kill()
    wait_until(lambda: [name for name in killed.left() if name.isdecimal()] == [] or None)


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
def test_violations_and_what_was_left_out_are_shown_and_violations_give_exit_code_1(monkeypatch, capsys, as_json):
    class Failing:
        def __init__(self, _stage, planned, _audience):
            self.planned = planned

        def run(self) -> Report:
            found = [Violation(Flaw.LOST, f"job-{n}", "gone", 2) for n in range(30)]
            refused = Counter({"writes": 8, "descriptors": 9})
            return Report(self.planned, 1.0, Counter({Kind.NODE: 3}), 5, 7, tuple(found), 6, refused)

    monkeypatch.setattr(clock, "library", lambda: None)
    monkeypatch.setattr(command, "raised", lambda _argv: nullcontext())
    monkeypatch.setattr(command, "Driver", Failing)
    with pytest.raises(typer.Exit) as ended:
        command.chaos(seed=1, jobs=12, minutes=0.1, json=as_json)
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    if as_json:
        document = json.loads(out)
        assert (document["lost"], document["re_runs"], document["kills"]["node"]) == (60, 7, 3)
        assert (document["resubmitted"], document["refused"]) == (6, {"writes": 8, "descriptors": 9})
        assert document["left_out"] == {"clock": "libfaketime is not there (pip install libfaketime)"}
        assert len(document["violations"]) == 30
    else:
        shown = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines() if re.match(r"\S+( \S+)*  ", line))
        assert (shown["lost"], shown["jobs submitted again"], shown["refused"]) == (
            "60",
            "6",
            "8 writes, 9 descriptors",
        )
        assert shown["clock"] == "left out, libfaketime is not there (pip install libfaketime)"
        assert " clock " not in out.partition("starting a server")[0]
        assert err.splitlines()[0] == "mn: lost: job-0: gone"
        assert err.splitlines()[-1] == "mn: and 10 more (--json shows all)"


@pytest.mark.parametrize("words", [("--jobs", "0"), ("--minutes", "0"), ("--seed", "x")])
def test_an_invalid_number_is_a_usage_error(ground: Ground, words):
    done = subprocess.run([MN, "chaos", *words], env=ground.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_the_json_document_has_the_schedule_and_no_violations(beside: tuple[Ground, Started]):
    ground, running = beside
    out, err = running.process.communicate()
    assert (running.process.returncode, err) == (0, "mn: seed 1\n"), out
    document = json.loads(out)
    planned = possible(plan(1, 12, 0.1))
    assert [(row["at_s"], row["kind"], row["which"]) for row in document["schedule"]] == [
        (strike.at_s, strike.kind, strike.which) for strike in planned.strikes
    ]
    assert document["kills"].keys() == set(Kind)
    assert sum(document["kills"].values()) + document["missed"] == len(planned.strikes)
    assert {flaw: document[flaw] for flaw in Flaw} == dict.fromkeys(Flaw, 0)
    assert document["violations"] == []
    assert document["left_out"].keys() == set(planned.left_out)
    assert document["refused"].keys() == {"writes", "descriptors"}
    assert ground.left() == []
