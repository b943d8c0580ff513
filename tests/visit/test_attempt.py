"""The limits of a node for the attempts of one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.plan import make_plan
from mirrorneuron.message import decode
from mirrorneuron.settings import Settings
from mirrorneuron.store.protocol import Claim
from tests.support.graphs import executor, manifest
from workers.agents.draft import Draft, StepContext
from workers.agents.failures import RunFailed
from workers.attempt import OtherNodes, _retry_or_fail
from workers.runtime import Runtime


@pytest.mark.parametrize(
    ("failed", "most", "retried", "note"),
    [(1, 3, True, False), (2, 3, False, True), (8, 1000, True, False), (9, 1000, False, False)],
)
def test_a_node_may_allow_fewer_attempts_than_a_bundle_asks_for(
    redis_url: str, tmp_path: Path, failed: int, most: int, retried: bool, note: bool
) -> None:
    elsewhere = OtherNodes(Runtime(Settings(redis_url=redis_url, temp_dir=tmp_path), "one@test"), "default", 1)
    plan = make_plan(load(manifest([executor("work", "true", max_attempts=10)], [])).manifest)
    draft = Draft(
        plan.nodes["work"], Claim("work", b"", 0, failed, 0, ()), StepContext("t", 0, lambda: 0, ("work",), 10_000)
    )
    step = _retry_or_fail(draft, RunFailed("it broke"), ("released", {}), elsewhere, most)
    assert (step.end is None) is retried
    if step.end:
        error = decode(step.end.result)["error"]
        assert error.startswith("it broke")
        assert ("this node allows MIRROR_NEURON_MAX_ATTEMPTS=3" in error) is note
