"""A worker dies at any point, tasks are duplicated or lost, replies are lost: each message takes effect once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.chaos.invariants import Expected
from tests.support.crash_points import KILLING, LASTING, SHARED
from tests.support.graphs import agent, collector, executor, manifest, router
from tests.support.leftovers import assert_went_well
from tests.support.node import RealNode
from tests.support.waiting import wait_until

LEAVES = 4
#: The result of the job in every case.
EXPECTED = Expected(
    processed={"spread": 1, "relay": LEAVES, "sum": LEAVES, **{f"leaf{n}": 1 for n in range(LEAVES)}},
    messages=tuple(range(LEAVES)),
)


def counted(folder: Path) -> dict[str, Any]:
    """A fan of executors, each adding one number; a router after them; and an aggregator that has to get each once.

    Each executor fails the first time and is retried after a backoff.
    """
    leaves = []
    for n in range(LEAVES):
        fails = f"[ -e {folder}/tried{n} ] || {{ touch {folder}/tried{n}; exit 1; }}"
        emits = f'echo \'{{"emit_messages": [{{"type": "n", "body": {n}}}]}}\''
        more: dict[str, Any] = {"output_message_type": None, "max_attempts": 9, "retry_backoff_ms": 50}
        leaves.append(executor(f"leaf{n}", f"{fails}; {emits}", **more))
    edges = [("spread", leaf["node_id"], "go") for leaf in leaves]
    edges += [(leaf["node_id"], "relay", "n") for leaf in leaves] + [("relay", "sum", "n")]
    relay = agent("relay", "router", emit_type="n")
    return manifest([router("spread"), *leaves, relay, collector("sum", LEAVES)], edges)


def check(jobs: Client, job_id: str) -> None:
    """Every message took effect once, and the job ended once."""
    jobs.wait_for_job(job_id, timeout=60_000)
    assert_went_well(jobs, job_id, EXPECTED)


@pytest.fixture(scope="module")
def overrides() -> dict[str, object]:
    """A short lease: each test waits for one to expire, and no test counts how often a command ran."""
    return {"claim_lease_ms": 1_000}


@pytest.fixture(scope="module")
def app_module() -> str:
    """The workers' app with faults that can be injected, and with a sweeper that re-announces quickly."""
    return "tests.support.crashing"


@pytest.mark.parametrize(
    ("pool", "point"), [*(("default", point) for point in KILLING), ("light", "claimed"), ("light", "after_commit")]
)
def test_a_worker_killed_anywhere_commits_every_message_exactly_once(
    own: RealNode, jobs: Client, tmp_path: Path, pool: str, point: str
) -> None:
    killed = tmp_path / "once"
    own.restart(pool, FAULT=point, FAULT_ONCE=str(killed))
    job_id = jobs.run_manifest(counted(tmp_path))
    wait_until(lambda: own.ended(pool), timeout=60)
    assert killed.exists()  # it was killed at that point, and did not fail to start
    own.restart(pool)
    check(jobs, job_id)


MODULE = """
import time
from mirrorneuron import Agent

class Step(Agent):
    def handle(self, message, context):
        time.sleep(context.config["takes_s"])
        context.emit("n", message.body)
"""


def modules(folder: Path) -> Path:
    """A line of modules, and a fan of others behind it. Some runs are so long that they do not share a commit."""

    def step(name: str, takes_s: float) -> dict[str, Any]:
        return agent(name, "module", module="step:Step", module_source="step.py", takes_s=takes_s)

    line = [step(f"line{n}", 0.2 * (n == 2)) for n in range(4)]
    fan = [step(f"fan{n:02}", 0.05 * (n == 5)) for n in range(FAN)]
    edges = [(f"line{n}", f"line{n + 1}", "n") for n in range(3)]
    edges += [("line3", leaf["node_id"], "n") for leaf in fan] + [(leaf["node_id"], "sum", "n") for leaf in fan]
    graph = manifest([*line, *fan, collector("sum", FAN)], edges, entrypoints=["line0"])
    (folder / "bundle" / "payloads").mkdir(parents=True)
    (folder / "bundle" / "payloads" / "step.py").write_text(MODULE)
    (folder / "bundle" / "manifest.json").write_text(json.dumps(graph | {"initial_inputs": {"line0": 7}}))
    return folder / "bundle"


FAN = 24
EXPECTED_OF_MODULES = Expected(
    processed={**{f"line{n}": 1 for n in range(4)}, **{f"fan{n:02}": 1 for n in range(FAN)}, "sum": FAN},
    messages=(7,) * FAN,
)


@pytest.mark.parametrize("point", SHARED)
def test_a_worker_killed_while_runs_share_a_claim_commits_every_message_exactly_once(
    own: RealNode, jobs: Client, tmp_path: Path, point: str
) -> None:
    killed = tmp_path / "once"
    own.restart("default", FAULT=point, FAULT_ONCE=str(killed))
    job_id = jobs.run_manifest(modules(tmp_path))
    wait_until(lambda: own.ended("default"), timeout=60)
    assert killed.exists()
    own.restart("default")
    jobs.wait_for_job(job_id, timeout=60_000)
    assert_went_well(jobs, job_id, EXPECTED_OF_MODULES)


def test_a_process_with_a_stuck_task_exits_and_others_continue(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    """Its lease keeper renews its claims, so no other worker could take them over."""
    own.restart("default", FAULT="gets_stuck", FAULT_ONCE=str(tmp_path / "once"))
    job_id = jobs.run_manifest(counted(tmp_path))
    check(jobs, job_id)
    assert not own.ended("default")
    stack = own.log.read_text(errors="replace").partition("a task is stuck")[2]
    assert "in get_stuck" in stack  # the stack of the stuck task


@pytest.mark.parametrize("what", LASTING)
def test_each_message_takes_effect_once(own: RealNode, jobs: Client, tmp_path: Path, what: str) -> None:
    """The same holds for a node whose clock is wrong by an hour."""
    own.restart("default", FAULT=what)
    own.restart("light", FAULT=what if "clock" not in what else "")
    for job_id in [jobs.run_manifest(counted(tmp_path)) for _ in range(3)]:
        check(jobs, job_id)
