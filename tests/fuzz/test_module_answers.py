"""Answers of module processes: they are checked, and carried out as a whole or refused with one error."""

from __future__ import annotations

import base64
import secrets
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron.message import decode, encode
from mirrorneuron.modules.sources import Sources
from mirrorneuron.store.protocol import Claim, JobRef, Step
from tests.fuzz.conftest import fuzzed
from tests.support.fuzzing.steps import CAP, can_be_committed, claim_of, context, plan_of
from tests.support.fuzzing.values import ANYTHING, documents, garbled, mutated, nested
from tests.support.modules import WHO, Bundle, pid_of
from workers.agents import module
from workers.agents.draft import Draft
from workers.agents.failures import RunFailed
from workers.agents.run_context import Run
from workers.lifecycle.run_handle import RunHandle
from workers.modules.module_child import HEADER
from workers.modules.module_process import ProtocolBroken, _Exchange
from workers.modules.pool import ModulePool, ModuleRequest, ModuleResult, _result

ANSWER = {
    "state": {"n": 1, "deep": {"a": [1, 2]}},
    "actions": [
        ["emit", "x", {"x": 1}, "a", {"headers": {"h": 1}, "ttl_ms": 5}],
        ["emit", "y", [1], None, {}],
        ["event", "seen", {"n": 1}],
        ["complete", {"sum": 55}],
    ],
}
FAILURE = {"error": "ValueError: boom", "traceback": "Traceback\n  ...\nValueError: boom\n"}
QUESTION = {
    "job_id": "j",
    "agent_id": "n",
    "payloads_path": None,
    "config": {"module": "nowhere_at_all:Class", "module_source": None},
    "message": {"envelope": {"message_id": "m"}, "body": 1, "headers": {}, "artifacts": [], "stream": None},
    "state": {},
}
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["emit", "event", "complete"]), st.sampled_from(["x", "", "\0" * 900]) | ANYTHING, ANYTHING
    )
    | st.tuples(st.just("emit"), st.just("x"), ANYTHING, st.sampled_from(["a", "z", None]) | ANYTHING, ANYTHING)
    | ANYTHING,
    max_size=5,
)
ANSWERS = documents(ANSWER, FAILURE) | st.fixed_dictionaries({"state": ANYTHING, "actions": ACTIONS}).map(
    lambda value: text_of(value)
)
PLAN = plan_of("module")
SILENT = SimpleNamespace(printed=dict)


def text_of(value: Any) -> bytes:
    try:
        return encode(value)
    except ValueError:
        return b""


def step_of(claim: Claim, answer: bytes) -> Step:
    """The step of a run whose module process gave that answer. Any exception except RunFailed is a bug."""

    def run(request: ModuleRequest, handle: RunHandle) -> ModuleResult:
        try:
            return _result(request, answer, SILENT)  # type: ignore[arg-type]
        except ProtocolBroken as error:
            return ModuleResult(request.state, [], str(error), {})

    draft = Draft(PLAN.nodes["n"], claim, context(PLAN))
    runtime = SimpleNamespace(modules=SimpleNamespace(run=run), settings=SimpleNamespace(max_run_seconds=0))
    try:
        job = JobRef("j", 1, "d")
        given = Run(runtime, job, draft.messages[0], None, {}, 1, lambda *_: None, RunHandle())  # type: ignore[arg-type]
        module.handle(draft, given)
        return draft.consumed()
    except RunFailed as failure:
        return draft.failed(str(failure), failure.details, failure.events)


@fuzzed(50)
@given(ANSWERS)
@example(b'{"state": {"a": 1e999}, "actions": []}')
@example(encode({"state": {"deep": nested(196)}, "actions": []}))
@example(encode({"state": {}, "actions": [["emit", "x", 1, None, {"ttl_ms": 10**400}]]}))
@example(encode({"state": {}, "actions": [["event", "", 1]]}))
@example(encode({"state": {}, "actions": [["event", "x" * CAP + "x", 1]]}))
@example(encode({"error": "x " * CAP, "traceback": "\0" * CAP}))
@example(encode({"error": "", "traceback": ""}))
def test_any_answer_makes_a_step_that_can_be_committed(answer: bytes) -> None:
    step = step_of(claim_of({"body": 1}), answer)
    can_be_committed(step)
    assert step.consumed == (step.error == "")


@fuzzed(60)
@given(garbled(HEADER.pack(2, 1) + b"{}") | st.binary(max_size=60), st.integers(1, 20), st.booleans())
def test_any_bytes_on_the_socket_are_an_answer_or_break_the_protocol(wire: bytes, piece: int, asked: bool) -> None:
    """In pieces of any size, and whether or not the request was sent completely."""
    going = _Exchange(1, memoryview(b"" if asked else b"rest"))
    for at in range(0, len(wire), piece):
        going.incoming += wire[at : at + piece]
        try:
            answer = going.answer(1_000)
        except ProtocolBroken:
            return
        if answer is not None:
            assert asked
            assert bytes(going.incoming) == HEADER.pack(len(answer), 1) + answer
            return


@pytest.fixture
def path() -> Iterator[None]:
    """Restore the import path and the imported modules afterwards."""
    before, modules = sys.path[:], dict(sys.modules)
    yield
    sys.path[:] = before
    sys.modules.clear()
    sys.modules.update(modules)


@pytest.mark.usefixtures("path")
@fuzzed(25)
@given(documents(QUESTION))
def test_any_request_has_an_answer(question: bytes) -> None:
    """The process ends by itself only when its socket is closed."""
    assert decode(Sources().answer(question)).keys() <= {"error", "traceback", "permanent", "state", "actions"}


FORGER = """
    import base64, contextlib, os, stat

    class It(Agent):
        def handle(self, message, context):
            for text in message.body["printed"]:
                os.write(1, base64.b64decode(text))
            for fd in range(100, 600):
                with contextlib.suppress(OSError):
                    if stat.S_ISSOCK(os.fstat(fd).st_mode):
                        os.write(fd, base64.b64decode(message.body["wire"]))
            if message.body["exit"] is not None:
                os._exit(message.body["exit"])
"""
RIGHT = encode(ANSWER)


@pytest.fixture
def pool() -> Iterator[ModulePool]:
    made = ModulePool(max_answer_bytes=CAP)
    yield made
    made.close()


@fuzzed(3)
@given(
    st.one_of(
        st.just(HEADER.pack(len(RIGHT), 1) + RIGHT),
        garbled(HEADER.pack(len(RIGHT), 1) + RIGHT),
        mutated(ANSWER).map(text_of).map(lambda answer: HEADER.pack(len(answer), 1) + answer),
        st.binary(max_size=300),
    ),
    st.lists(st.binary(max_size=300), max_size=2),
    st.none() | st.integers(0, 255),
)
def test_a_process_that_forges_its_answer_harms_only_itself(
    pool: ModulePool, tmp_path_factory: pytest.TempPathFactory, wire: bytes, printed: list[bytes], code: int | None
) -> None:
    bundle = Bundle(tmp_path_factory.mktemp("bundle"), secrets.token_hex(4)).write("agent.py", FORGER)
    other = Bundle(tmp_path_factory.mktemp("other"), "other").write("who.py", WHO)
    texts = [base64.b64encode(piece).decode() for piece in printed]
    result = bundle.run(
        pool, {"wire": base64.b64encode(wire).decode(), "printed": texts, "exit": code}, timeout_seconds=5
    )
    assert result.error is None or (result.actions == [] and len(result.error.splitlines()) == 1)
    encode(result.details)
    assert pid_of(pool, other, module="who:It") > 0
