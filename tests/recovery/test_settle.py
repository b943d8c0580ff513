"""What a commit knows of the end of an idle job, without a look at the store."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.plan import Plan, make_plan
from mirrorneuron.job import JobStatus
from mirrorneuron.message import decode, encode, seed
from mirrorneuron.store.protocol import Claim, Step
from tests.support.graphs import agent, manifest, router
from workers.recovery.settle import end_after

CAP = 1_000


def plan_of(*sinks: Any, **policies: Any) -> Plan:
    """A router `in` that sends to *sinks*, which have no edges."""
    edges = [("in", sink["node_id"], "go") for sink in sinks]
    return make_plan(
        load(manifest([router("in"), *sinks], edges, policies={"on_idle": "complete", **policies})).manifest
    )


def message(body: Any) -> bytes:
    return encode(seed({"body": body}, job_id="j", to="a", message_id="m", timestamp="2026-01-31T12:00:00.000Z"))


def claim(name: str, processed: int = 0) -> Claim:
    return Claim(name, b"", processed, 0, 0, ())


def test_the_last_body_of_a_sink_is_what_it_emitted_else_what_it_received() -> None:
    plan = plan_of(router("a"), router("b"))
    steps = [Step("in"), Step("a", output=b'{"n":1}', last=message({"n": 0})), Step("b", last=message([2]))]
    end = end_after(plan, [claim("in"), claim("a", 5), claim("b")], steps, CAP)
    assert end is not None
    assert (end.status, decode(end.result)) == (
        JobStatus.COMPLETED,
        {"agent_id": None, "output": {"a": {"n": 1}, "b": [2]}},
    )


@pytest.mark.parametrize(
    ("sinks", "policies", "runs"),
    [
        ((router("a"), router("b")), {}, [("a", 0, {"output": b"1"})]),
        ((router("a"),), {}, [("a", 3, {"last": message(1)})]),
        ((router("a"),), {}, [("a", 0, {})]),
        ((agent("a", "aggregator", complete_after=2),), {}, [("a", 0, {"last": message(1)})]),
        ((router("a"),), {"on_idle": "wait"}, [("a", 0, {"output": b"1"})]),
        ((router("a"),), {"on_idle": "fail"}, [("a", 0, {"output": b"1"})]),
        (
            (agent("a", "executor", "batch", command=["true"], batch_size=2),),
            {},
            [("a", 0, {"output": b"1"})],
        ),
    ],
    ids=["another sink", "it may have emitted before", "it did not run", "mail may wait", "waits", "fails", "batch"],
)
def test_otherwise_the_store_has_to_be_asked(sinks: Any, policies: Any, runs: Any) -> None:
    plan = plan_of(*sinks, **policies)
    claims = [claim("in"), *(claim(name, processed) for name, processed, _ in runs)]
    steps = [Step("in"), *(Step(name, **given) for name, _, given in runs)]
    assert end_after(plan, claims, steps, CAP) is None


def test_an_output_over_the_cap_of_a_message_fails_the_job() -> None:
    end = end_after(plan_of(router("a")), [claim("a")], [Step("a", output=encode("x" * CAP))], CAP)
    assert end is not None
    assert end.status is JobStatus.FAILED
    assert "MIRROR_NEURON_MAX_MESSAGE_BYTES" in decode(end.result)["error"]
