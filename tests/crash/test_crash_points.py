"""A worker dies between any two lines, tasks come twice or never, replies are lost: each message takes effect once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.chaos.invariants import Expected
from tests.support.crashing import KILLING, LASTING
from tests.support.graphs import agent, collector, executor, manifest, router
from tests.support.leftovers import assert_went_well
from tests.support.node import RealNode
from tests.support.waiting import wait_until

LEAVES = 4
#: What comes of the job, whatever happens.
EXPECTED = Expected(
    processed={"spread": 1, "relay": LEAVES, "sum": LEAVES, **{f"leaf{n}": 1 for n in range(LEAVES)}},
    messages=tuple(range(LEAVES)),
)


def counted(folder: Path) -> dict[str, Any]:
    """A fan of executors, each adding one number; a relay in between; and an aggregator that has to see each once.

    Each executor fails at first, and is tried again after a while.
    """
    leaves = []
    for n in range(LEAVES):
        fails = f"[ -e {folder}/tried{n} ] || {{ touch {folder}/tried{n}; exit 1; }}"
        emits = f'echo \'{{"emit_messages": [{{"type": "n", "body": {n}}}]}}\''
        more = {"output_message_type": None, "max_attempts": 9, "retry_backoff_ms": 50}
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
    """A lease that is soon over: each test waits for one, and none counts how often a command ran."""
    return {"claim_lease_ms": 1_000}


@pytest.fixture(scope="module")
def app_module() -> str:
    """The nodes' own app, which can be spoilt, and whose sweeper is quick to tell again of what was lost."""
    return "tests.support.crashing"


@pytest.mark.parametrize(
    ("pool", "point"), [*(("default", point) for point in KILLING), ("light", "claimed"), ("light", "after_commit")]
)
def test_a_worker_killed_anywhere_commits_every_message_exactly_once(
    own: RealNode, jobs: Client, tmp_path: Path, pool: str, point: str
) -> None:
    killed = tmp_path / "once"
    own.restart(pool, SPOILT=point, SPOILT_ONCE=str(killed))
    job_id = jobs.run_manifest(counted(tmp_path))
    wait_until(lambda: own.ended(pool), timeout=60)
    assert killed.exists()  # it was killed at that point, and did not end because it could not start
    own.restart(pool)
    check(jobs, job_id)


def test_a_process_whose_task_stands_still_ends_and_others_go_on(own: RealNode, jobs: Client, tmp_path: Path) -> None:
    """It renews its claims, and its worker lives: nobody else would ever take up what it holds."""
    own.restart("default", SPOILT="stands_still", SPOILT_ONCE=str(tmp_path / "once"))
    job_id = jobs.run_manifest(counted(tmp_path))
    check(jobs, job_id)
    assert not own.ended("default")
    told = own.log.read_text(errors="replace").partition("a task is stuck")[2]
    assert "in stand_still" in told  # where it stood


@pytest.mark.parametrize("what", LASTING)
def test_what_comes_twice_or_never_takes_effect_once(own: RealNode, jobs: Client, tmp_path: Path, what: str) -> None:
    """So does what one node does whose clock is an hour off."""
    own.restart("default", SPOILT=what)
    own.restart("light", SPOILT=what if "clock" not in what else "")
    for job_id in [jobs.run_manifest(counted(tmp_path)) for _ in range(3)]:
        check(jobs, job_id)
