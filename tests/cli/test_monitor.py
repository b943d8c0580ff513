"""`mn monitor`: the cluster and one job, on a terminal, in a pipe and as JSON, and while the server is unreachable."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import MN, Gate, Mn, Started
from tests.support.terminal import CTRL_C, Terminal
from tests.support.valkey import ValkeyServer


@pytest.fixture
def gated(mn: Mn, gate: Gate) -> str:
    """A job whose only command runs until the gate is opened."""
    name = f"gated-{uuid.uuid4().hex[:8]}"
    assert mn("run", str(gate), "--no-await", "--job-id", name).returncode == 0
    gate.wait()
    return name


def test_a_cluster_on_a_terminal(env: dict[str, str], gate: Gate, gated: str) -> None:
    with Terminal([MN, "monitor", "--interval", "0.1"], env) as screen:
        screen.read_until(re.compile(rf"{gated} +running"))
        assert re.search(r"jobs: .*\d running", screen.text)
        assert "default@" in screen.text
        gate.open()
        screen.read_until(re.compile(rf"{gated} +completed"))
        screen.press(CTRL_C)
        assert screen.end() == 0
    assert "\x1b[?1049l" in screen.raw, "the screen is restored"
    assert gated in screen.raw.partition("\x1b[?1049l")[2], "the last view stays"


def test_a_job_on_a_terminal_until_it_ends(env: dict[str, str], gate: Gate, gated: str) -> None:
    with Terminal([MN, "monitor", gated, "--interval", "0.1"], env) as screen:
        screen.read_until(f"{gated}: running")
        screen.read_until("executor_lease_acquired")
        gate.open()
        assert screen.end() == 0
    left = screen.text[screen.text.rindex(f"{gated}: ") :]
    assert left.startswith(f"{gated}: completed")
    assert "only" in left


def test_a_small_terminal_says_how_many_rows_are_hidden(env: dict[str, str], mn: Mn, tmp_path: Path) -> None:
    nodes = [{"node_id": f"n{number}", "agent_type": "router"} for number in range(40)]
    folder = tmp_path / "many"
    folder.mkdir()
    whole = {"manifest_version": "1.0", "graph_id": "many", "entrypoints": [node["node_id"] for node in nodes]}
    (folder / "manifest.json").write_text(json.dumps({**whole, "nodes": nodes, "edges": []}))
    name = f"many-{uuid.uuid4().hex[:8]}"
    assert mn("run", str(folder), "--job-id", name).returncode == 0
    with Terminal([MN, "monitor", name], env, rows=24) as screen:
        assert screen.end() == 0
    left = screen.text[screen.text.rindex(f"{name}: ") :]
    assert len(left.splitlines()) <= 24
    shown = sum(line.startswith((" n", "n")) for line in left.splitlines())
    assert f"... {40 - shown} more" in left


def test_with_json_each_refresh_is_a_line(env: dict[str, str], gate: Gate, gated: str) -> None:
    with Started("monitor", gated, "--json", "--interval", "0.1", env=env) as watching:
        assert json.loads(watching.line())["job"]["status"] == "running"
        gate.open()
        rest, _ = watching.process.communicate(timeout=60)
        assert watching.process.returncode == 0
    snapshots: list[dict[str, Any]] = [json.loads(line) for line in rest.splitlines()]
    assert snapshots[-1]["job"]["status"] == "completed"
    assert snapshots[-1]["away"] is None


def test_a_pipe_gets_one_snapshot(mn: Mn, gated: str) -> None:
    done = mn("monitor")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("jobs: ")
    assert gated in done.stdout
    one = mn("monitor", gated).stdout.splitlines()
    assert one[0].startswith(f"{gated}: running")
    assert one[-2].split()[:3] == ["AGENT", "TYPE", "STATUS"]
    assert one[-1].split()[:3] == ["only", "executor", "running"]


def test_an_unknown_job_exits_3_and_an_unreachable_server_5(mn: Mn, unreachable: dict[str, str]) -> None:
    assert mn("monitor", "nobody").returncode == 3
    assert mn("monitor", env=unreachable).returncode == 5


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path / "server", durable=True) as running:
        yield running


def test_the_monitor_continues_after_an_outage_of_the_server(env: dict[str, str], mortal: ValkeyServer) -> None:
    there = {**env, "MIRROR_NEURON_REDIS_URL": mortal.url}
    with Started("monitor", "--json", "--interval", "0.1", env=there) as watching:
        assert json.loads(watching.line())["away"] is None
        mortal.stop()
        while not (error := json.loads(watching.line())["away"]):
            pass
        assert "does not answer" in error
        mortal.start()
        while json.loads(watching.line())["away"]:
            pass
        code, _, _ = watching.ctrl_c()
    assert code == 0
