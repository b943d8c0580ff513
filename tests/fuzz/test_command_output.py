"""Output of commands: it is plain, or structured and carried out as a whole, or it fails the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron.agent import Complete, Emit, Record
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.message import encode
from mirrorneuron.store.protocol import Claim, JobRef, ReplyCode, Step, new_token
from tests.fuzz.conftest import fuzzed, is_one_line
from tests.scripts.machine.stage import EXECUTOR, JOB, Stage
from tests.support.answers import parse_output
from tests.support.fuzzing.steps import CAP, can_be_committed, claim_of, context, plan_of
from tests.support.fuzzing.values import ANYTHING, documents, mutated, nested
from workers.agents import executor
from workers.agents.draft import Draft
from workers.agents.failures import RunFailed
from workers.agents.run_context import Run
from workers.lifecycle.run_handle import RunHandle
from workers.runners.output_capture import Capture
from workers.runners.protocol import RunRequest, RunResult

ORDER = {
    "emit_messages": [
        {"type": "x", "to": "a", "body": {"x": 1}, "class": "stream", "headers": {"h": 1}, "artifacts": [1]},
        {"type": "y", "payload": [1], "stream": {"seq": 1}, "content_type": "text/plain", "correlation_id": "c"},
        {"type": "x", "body_base64": "AP8=", "content_encoding": "gzip", "causation_id": "m"},
    ],
    "events": [{"type": "seen", "payload": {"n": 1}}, {"type": "bare"}],
    "next_state": {"n": 1},
    "complete_job": {"sum": 55},
    "complete_job?": True,
}
WORDS = st.sampled_from(["x", "y", "", "a", "nobody", "job_completed", "*", "\0", "x" * 3_000, 'q"{}'])


def entries(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = {"type": WORDS | ANYTHING, **more}
    return st.lists(st.fixed_dictionaries({}, optional=keys) | ANYTHING, max_size=4) | ANYTHING


NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "emit_messages": entries(
            to=WORDS | ANYTHING,
            body=ANYTHING,
            payload=ANYTHING,
            body_base64=st.sampled_from(["AA==", "AA", "=", "ü", " A A = = "]) | ANYTHING,
            headers=ANYTHING,
            ttl_ms=ANYTHING,
            stream=ANYTHING,
        ),
        "events": entries(payload=ANYTHING),
        "next_state": ANYTHING,
        "complete_job": ANYTHING,
        "complete_job?": ANYTHING,
    },
)
PRINTED = st.one_of(documents(ORDER), (NEARLY | mutated(ORDER)).map(lambda value: text_of(value)))
PLANS = [
    plan_of("executor"),
    plan_of("executor", output_message_type="x", complete_job=True),
    plan_of("executor", output_message_type=None),
]


def text_of(value: Any) -> bytes:
    try:
        return encode(value)
    except ValueError:
        return b""


@dataclass(frozen=True)
class Printer:
    """A runner whose command has printed *stdout* and succeeded."""

    stdout: str

    def run(self, request: RunRequest, handle: RunHandle) -> RunResult:
        streams = {"stdout": self.stdout, "stderr": "", "logs": self.stdout, "raw_output": ""}
        place = {"sandbox_name": "s", "remote_dir": "/r", "runner": "host_local", "node_name": "n"}
        return RunResult({**place, "exit_code": 0, "runner_exit_code": 0, **streams}, None)  # type: ignore[typeddict-item]


def step_of(plan: Plan, claim: Claim, printed: bytes, cap: int = CAP, kept: int = 3 * CAP) -> Step:
    """The step of a run whose command has printed *stdout*. Any exception except RunFailed is a bug."""
    capture = Capture(kept)
    capture.add(printed)
    draft = Draft(plan.nodes["n"], claim, context(plan, cap))
    runtime = SimpleNamespace(runner=lambda name: Printer(capture.text()), name="node")
    lease = {"lease_id": "l", "pool": "default", "slots": 1, "queue_wait_ms": 0}
    job, handle = JobRef("j", 1, "d"), RunHandle()
    run = Run(runtime, job, draft.messages[0], None, lease, 1, lambda *_: None, handle)  # type: ignore[arg-type]
    try:
        executor.handle(draft, run)
        return draft.consumed()
    except RunFailed as failure:
        return draft.failed(str(failure), failure.details, failure.events)


@fuzzed(50)
@given(PRINTED)
@example(b'{"emit_messages": [{"type": "x", "ttl_ms": 1' + b"0" * 400 + b"}]}")
def test_any_output_is_plain_or_structured_or_malformed(printed: bytes) -> None:
    try:
        found = parse_output(printed.decode(errors="replace"))
    except ValueError as error:
        is_one_line(error)
        return
    if found is not None:
        ranks = [(Record, Emit, Complete).index(type(action)) for action in found.actions]
        assert ranks == sorted(ranks)


@fuzzed(60)
@given(st.sampled_from(PLANS), PRINTED, ANYTHING)
@example(PLANS[0], b'{"next_state": 1e999}', 1)
@example(PLANS[0], encode({"next_state": nested(198)}), 1)
@example(PLANS[2], encode({"emit_messages": [{"type": "\0" * 6_000, "headers": {"a": "b" * 15_000}}]}), 1)
@example(PLANS[2], encode({"events": [{"type": "\0" * 6_000, "payload": "x" * 21_000}]}), nested(150))
@example(PLANS[2], encode({"events": [{"type": "x" * 21_000}]}), 1)
def test_any_output_makes_a_step_that_can_be_committed(plan: Plan, printed: bytes, body: Any) -> None:
    try:
        claim = claim_of({"body": body})
    except ValueError:
        return
    can_be_committed(step_of(plan, claim, printed))


@fuzzed(20)
@given(NEARLY.map(text_of), st.integers(2_500, 8_000))
def test_a_failure_fits_within_a_small_limit(printed: bytes, cap: int) -> None:
    """The result of a failed run has the same size limit as a message."""
    can_be_committed(step_of(PLANS[0], claim_of({"body": 1}), printed, cap), cap)


@pytest.fixture(scope="module")
def stage(redis_url: str) -> Iterator[Stage]:
    made = Stage(redis_url, {"n": EXECUTOR})
    yield made
    made.redis.close()


@fuzzed(15)
@given(NEARLY.map(text_of))
def test_any_output_is_accepted_by_a_real_commit(stage: Stage, printed: bytes) -> None:
    stage.redis.delete(*(stage.redis.keys(f"{stage.keys.ns}:*") or ["none"]))
    payload = claim_of({"body": 1}).mail[0]
    stage.open(("n", payload))
    reply = stage.claim("n")
    step = step_of(PLANS[0], reply.claims[0], printed)
    answer = stage.scripts.commit(JOB, reply.token, [step], new_token(), agents=("n", "a", "b") if step.end else ())
    assert answer.word is ReplyCode.COMMITTED
    assert stage.mail("a") == [raw for target, raw in step.outgoing if target == "a"]
    assert stage.job("status") == (step.end.status if step.end else "running")
