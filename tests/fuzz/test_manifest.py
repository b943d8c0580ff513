"""Any bytes are a valid manifest or are refused; a valid manifest can be run; the work is linear in the graph."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron.bundle.conditions import compile_condition, holds, unknown_roots
from mirrorneuron.bundle.evaluation import Meter
from mirrorneuron.bundle.fingerprint import OF_THE_JOB
from mirrorneuron.bundle.load import JobBundle, load, pack
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.bundle.plan import make_plan
from mirrorneuron.bundle.schema import as_dict
from mirrorneuron.drawing.text_graph import Mark, dot, mermaid
from mirrorneuron.errors import Issue, ManifestError, PayloadTooLarge
from mirrorneuron.message import Message, decode, encode, seed
from tests.fuzz.conftest import fuzzed, is_one_line
from tests.support.fuzzing.manifests import EVERYTHING, manifests
from tests.support.fuzzing.values import ANYTHING, JSON, documents, garbled, mutated, nested

MIB = 1024 * 1024
EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*/manifest.json"))
VALID = [EVERYTHING, *(decode(path.read_bytes()) for path in EXAMPLES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle; each example writes the manifest."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "payloads" / "data").mkdir(parents=True)
    (folder / "payloads" / "main.py").touch()
    (folder / "payloads" / "data" / "link").symlink_to("../main.py")
    return folder


def refused(input: Any) -> tuple[Issue, ...]:
    """The issues of *input*; empty for a valid bundle, which must then pass every later step."""
    try:
        bundle = load(input)
    except ManifestError as error:
        issues_are_complete(error.issues)
        return error.issues
    can_be_used(bundle)
    return ()


def issues_are_complete(issues: tuple[Issue, ...]) -> None:
    assert issues
    for issue in issues:
        assert isinstance(issue.path, str)
        assert issue.message
        assert issue.message in str(issue)


def can_be_used(bundle: JobBundle) -> None:
    """Pack, read back, plan and draw the bundle without a server."""
    try:
        packed = pack(bundle, MIB)
    except PayloadTooLarge:
        return
    stored = decode(b'{"manifest":%b,"payloads":%b}' % (packed.manifest_json, encode(packed.payloads_digest)))
    manifest = Manifest.from_dict(stored["manifest"])
    assert encode(without_job_values(manifest)) == packed.manifest_json
    assert encode(without_job_values(bundle.manifest)) == packed.manifest_json
    plan = make_plan(manifest)
    for name in plan.nodes:
        assert plan.linear_run(name)[0] == plan.downstream_of(name)[0] == name
    for agent, payloads in bundle.manifest.initial_inputs.items():
        for payload in payloads:
            Message.parse(encode(seed(payload, job_id="j", to=agent, message_id="m", timestamp="t")))
    states = dict(zip(plan.nodes, Mark, strict=False))
    encode([mermaid(manifest, states), dot(manifest, states), [str(issue) for issue in bundle.warnings]])


def without_job_values(manifest: Manifest) -> dict[str, Any]:
    return {key: value for key, value in as_dict(manifest).items() if key not in OF_THE_JOB}


@fuzzed(20)
@given(JSON)
def test_any_json_value_is_validated_or_refused(value: Any) -> None:
    refused(value if not isinstance(value, str) else [value])  # a string would be a path


@fuzzed(12)
@given(manifests(wild=True))
def test_anything_like_a_manifest_is_validated_or_refused(raw: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    found = refused(raw)
    assert len(set(found)) == len(found), "no issue appears twice"
    assert raw == before


@fuzzed(30)
@given(st.sampled_from(VALID).flatmap(mutated))
@example({**EVERYTHING, "metadata": {"deep": nested(198)}})
@example({**EVERYTHING, "initial_inputs": {"in": [{"ttl_ms": 10**400}]}})
def test_a_mutated_manifest_is_validated_or_refused(folder: Path, raw: Any) -> None:
    (folder / "manifest.json").write_bytes(text_of(raw))
    refused(str(folder))


def text_of(raw: Any) -> bytes:
    try:
        return encode(raw)
    except ValueError:  # nested more deeply than the parser reads
        return b"[" * 201


@fuzzed(25)
@given(documents(*VALID))
def test_any_bytes_are_validated_or_refused(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    refused(folder)


@fuzzed(20)
@given(
    st.text() | st.binary() | st.integers() | st.none() | st.floats() | st.lists(st.text())
    | st.dictionaries(st.text() | st.integers() | st.none(), st.sets(st.integers()) | st.binary() | st.floats())
)  # fmt: skip
@example("x" * 5_000)
@example("a\0b")
@example("\udcff")
@example(b"manifest")
@example({"a": object()})
@example({"graph_id": "\ud800"})
@example(JobBundle({"a": float("nan")}))  # type: ignore[arg-type]
def test_any_other_python_object_is_refused(input: Any) -> None:
    assert refused(input)


@fuzzed(15)
@given(manifests(wild=False))
def test_validation_is_idempotent(raw: dict[str, Any]) -> None:
    """Validating a checked manifest again does not change it."""
    bundle = load(raw)
    can_be_used(bundle)
    assert encode(load(bundle.manifest.to_dict()).manifest) == encode(bundle.manifest)
    assert Manifest.from_dict(decode(encode(bundle.manifest))) == bundle.manifest
    assert load(bundle) is bundle
    bundle.manifest.metadata["changed"] = True
    again = load(bundle).manifest
    assert (again.initial_inputs, again.policies) == (bundle.manifest.initial_inputs, bundle.manifest.policies)


@fuzzed(15)
@given(st.data())
def test_a_bundle_changed_in_memory_is_validated_or_refused(data: st.DataObject) -> None:
    bundle = load(data.draw(manifests(wild=False)))
    part = data.draw(st.sampled_from([bundle.manifest, bundle.manifest.nodes[0], bundle.manifest.policies]))
    setattr(part, data.draw(st.sampled_from(sorted(vars(part)))), data.draw(ANYTHING))
    refused(bundle)


TOKENS = (
    "${ } payload. body .x [ ] ( ) [? [* . * @ & | || && ! == < >= , : ' \" ` \\ length( sort_by( {a: 1 -1 2.5 true"
    " null 'low' `[]` `{` NaN"
)
EXPRESSIONS = st.lists(
    st.sampled_from(TOKENS.split()) | st.sampled_from([" ", "\n", "  "]) | st.text(max_size=3),
    max_size=25,
).map("".join)


@fuzzed(60)
@given(
    EXPRESSIONS
    | garbled(b'${payload.outputs.branch} == "low" && body.n[?a > `1`].b | [0]').map(
        lambda raw: raw.decode(errors="replace")
    ),
    JSON,
)
def test_any_text_is_a_condition_or_is_refused(text: str, body: Any) -> None:
    try:
        compiled = compile_condition(text)
    except ValueError as error:
        is_one_line(error)
        return
    unknown_roots(text)
    message = decode(encode(seed({"body": body}, job_id="j", to="a", message_id="m", timestamp="t")))
    try:
        assert holds(compiled, message, Meter()) in (True, False)
    except ValueError as error:
        is_one_line(error)


def chain_of(length: int, *, wrong: bool = False) -> dict[str, Any]:
    """A chain of executors with conditions; with *wrong* every edge points to an unknown node."""
    config = {"command": ["true"], "output_message_type": "x", "max_attempts": 2}
    return {
        "manifest_version": "1.0",
        "graph_id": "g",
        "entrypoints": ["n0"],
        "nodes": [{"node_id": f"n{i}", "agent_type": "executor", "config": config} for i in range(length)],
        "edges": [
            {
                "from_node": f"n{i}",
                "to_node": f"n{i + 1}" + "-typo" * wrong,
                "message_type": "x",
                "conditions": {"expr": "body.x == 'y'"},
            }
            for i in range(length - 1)
        ],
    }


def issues_of(raw: Any) -> tuple[Issue, ...]:
    try:
        load(raw)
    except ManifestError as error:
        return error.issues
    return ()


def calls_of(act: Callable[[], object]) -> int:
    """The number of calls of Python and C functions: a measure of work that does not depend on the machine."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_the_work_of_validation_is_linear_in_the_graph(wrong: bool) -> None:
    """Quadratic work would be a hundred times as much. Suggestions for wrong names have a limit in total."""
    small, large = chain_of(100, wrong=wrong), chain_of(1_000, wrong=wrong)
    assert len(issues_of(small)) == len(small["edges"]) * wrong
    assert calls_of(lambda: issues_of(large)) < 11 * calls_of(lambda: issues_of(small))
