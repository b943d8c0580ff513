"""Each benchmark does its work, in tiny sizes and without peers, on the node that all tests share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import compare, cost, crowd, harness, scale
from benchmarks import node as node_itself
from benchmarks.__main__ import NAMES, main, run
from benchmarks.ours import Ours
from benchmarks.row import ABSENT, Row
from benchmarks.side import CELERY, OURS
from benchmarks.size import QUICK
from mirrorneuron.api.client import Client
from tests.support.node import RealNode

TINY = dataclasses.replace(QUICK, serial=1, burst=2, commands=2, waits=2, submissions=2, waiters=3, watch_s=0.01)


def figures(rows: Iterator[Row]) -> list[dict[str, Any]]:
    """Rows as JSON, each of which has a figure of ours."""
    found = [row.json() for row in rows]
    assert all(next(iter(row["figures"].values())) is not None for row in found)
    return found


def test_the_comparison_runs_without_peers(client: Client, node: RealNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job's result is checked; goals beside a peer that is missing are not met."""
    monkeypatch.setattr(harness, "CALM_S", 0.0)  # the node of all tests may have other work
    ours = Ours(client, node.pids["default"])
    compared = compare.Comparison({OURS: ours}, ours, TINY)
    compared.warm_up()
    python = figures(compared.python())
    others = figures(compared.commands()) + figures(compared.terminal_wait()) + figures(compared.routers())
    assert {row["figures"][CELERY] for row in python} == {None}
    assert {goal["verdict"] for row in python for goal in row["goals"]} == {ABSENT}
    assert [len(row["figures"]) for row in others] == [5, 5, 1, 1]
    assert set(compared.inputs().figures) == {OURS, compare.EQUAL}


def test_the_cost_of_a_job_is_measured(client: Client, node: RealNode) -> None:
    meter = cost.Meter(client, node.pids["default"])
    rows = {row["name"]: row["figures"] for row in figures(cost.Costs(meter, TINY).rows())}
    assert rows["scripts"][cost.PYTHON] > 0
    assert rows["an ended chain keeps"][cost.PYTHON] > 1_000


def test_an_idle_node_is_watched(client: Client, node: RealNode) -> None:
    commands, cpu = figures(node_itself.idle(client, node.pids["default"], TINY))
    assert (commands["unit"], cpu["unit"]) == ("commands/s", "% of a core")


def test_waits_of_one_process_end_with_their_jobs() -> None:
    """No node runs: the jobs end because another process cancels them."""
    with harness.server() as url:
        assert crowd.waits(url, TINY).figures[OURS] > 0


def test_a_fan_of_routers_completes(client: Client) -> None:
    assert scale.widest(client, 5).figures == {OURS: 1.0}


def test_a_benchmark_that_fails_is_named_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(_size: object) -> Iterator[Row]:
        yield Row("before", "ms", {OURS: 1.0})
        raise TimeoutError("no answer")

    monkeypatch.setattr(scale, "rows", rows)
    monkeypatch.setattr(crowd, "rows", lambda _size: iter([Row("after", "ms", {OURS: 2.0})]))
    measured, failed = run(("scale", "crowd"), TINY)
    assert failed == ["scale"]
    assert [[row["name"] for row in found["rows"]] for found in measured.values()] == [["before"], ["after"]]
    assert set(measured) <= set(NAMES)


@pytest.mark.parametrize("wrong", [("--quick", "--write-docs"), ("unknown",)])
def test_wrong_arguments_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch, wrong: tuple[str]) -> None:
    """Above all, the figures of a quick run never get into the documents."""
    monkeypatch.setattr("sys.argv", ["benchmarks", *wrong])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
