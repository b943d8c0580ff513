"""A worker dies between any two lines, tasks come twice or never, replies are lost: each message takes effect once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.client import Client
from tests.jobs.graphs import agent, collector, executor, kinds, manifest, router, snapshots
from tests.support.crashing import KILLING, LASTING
from tests.support.node import RealNode
from tests.support.waiting import wait_until

LEAVES = 4
#: Messages that each agent consumes, whatever happens.
PROCESSED = {"spread": 1, "relay": LEAVES, "sum": LEAVES, **{f"leaf{n}": 1 for n in range(LEAVES)}}


def counted() -> dict[str, Any]:
    """A fan of executors, each adding one number; a relay in between; and an aggregator that has to see each once."""
    leaves = [
        executor(f"leaf{n}", f'echo \'{{"emit_messages": [{{"type": "n", "body": {n}}}]}}\'', output_message_type=None)
        for n in range(LEAVES)
    ]
    edges = [("spread", leaf["node_id"], "go") for leaf in leaves]
    edges += [(leaf["node_id"], "relay", "n") for leaf in leaves] + [("relay", "sum", "n")]
    relay = agent("relay", "router", emit_type="n")
    return manifest([router("spread"), *leaves, relay, collector("sum", LEAVES)], edges)


def check(jobs: Client, job_id: str) -> None:
    """Every message took effect once, and the job ended once."""
    job = jobs.wait_for_job(job_id, timeout=60_000)
    assert job["status"] == "completed", job["result"]
    assert job["result"] is not None
    assert sorted(job["result"]["output"]["messages"]) == list(range(LEAVES))
    found = {name: snapshot["processed_messages"] for name, snapshot in snapshots(jobs, job_id).items()}
    assert found == PROCESSED
    assert kinds(jobs, job_id).count("job_completed") == 1
    store = jobs._live_parts().store
    assert not store.client.exists(store.keys.claims(job_id))


@pytest.fixture(scope="module")
def app_module() -> str:
    """The nodes' own app, which can be spoilt, and whose sweeper is quick to tell again of what was lost."""
    return "tests.support.crashing"


@pytest.mark.parametrize("pool", ["light", "default"])
@pytest.mark.parametrize("point", KILLING)
def test_a_worker_killed_anywhere_commits_every_message_exactly_once(
    own: RealNode, jobs: Client, tmp_path: Path, pool: str, point: str
) -> None:
    own.restart(pool, SPOILT=point, SPOILT_ONCE=str(tmp_path / "once"))
    job_id = jobs.run_manifest(counted())
    wait_until(lambda: own.ended(pool), timeout=60)
    own.restart(pool)
    check(jobs, job_id)


@pytest.mark.parametrize("what", LASTING)
def test_what_comes_twice_or_never_takes_effect_once(own: RealNode, jobs: Client, what: str) -> None:
    for pool in ("light", "default"):
        own.restart(pool, SPOILT=what)
    for job_id in [jobs.run_manifest(counted()) for _ in range(3)]:
        check(jobs, job_id)
