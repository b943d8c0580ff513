"""Any JSON value is a manifest or is refused; and the work grows with the graph, not with its square."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirrorneuron.bundle import load
from mirrorneuron.config_keys import KEYS, UPLOAD_KEYS
from mirrorneuron.errors import Issue, ManifestError
from mirrorneuron.manifest import (
    AGENT_TYPE_ALIASES,
    AgentType,
    Edge,
    Manifest,
    Node,
    OnIdle,
    Policies,
    RoutingMode,
    Template,
)
from mirrorneuron.message import decode, encode
from mirrorneuron.model import Model, words

Strategy = st.SearchStrategy[Any]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
NAMES = st.sampled_from(["a", "b", "c"])
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refused(raw: Any) -> tuple[Issue, ...]:
    """The issues of *raw*; none if it is right."""
    try:
        load(raw)
    except ManifestError as error:
        return error.issues
    return ()


def keyed(model: type[Model], wild: bool, **good: Strategy) -> Strategy:
    """Objects with the model's keys, of the right kind; if *wild*, any JSON value may stand at each of them."""
    needed = {"nodes", "config", *(found.name for found in fields(model) if found.default is MISSING)}
    required = {key: value for key, value in good.items() if key in needed}
    optional = {key: value | st.none() for key, value in good.items() if key not in required}
    if wild:
        optional = {key: good.get(key, JSON) | JSON for key in words(model) if key not in required}
        required = {key: st.one_of(value, value, value, JSON) for key, value in required.items()}
    return st.fixed_dictionaries(required, optional=optional)


def configs(wild: bool) -> Strategy:
    numbers, words = st.integers(1, 3) | st.none(), st.sampled_from(["x", "y"]) | st.none()
    good: dict[str, Strategy] = dict.fromkeys(
        ("complete_after", "max_attempts", "batch_size", "retry_backoff_ms"), numbers
    )
    good |= {"emit_type": words, "output_message_type": words, "complete_job": st.booleans(), "mine": JSON}
    if wild:
        good |= {key: good.get(key, numbers) | words | JSON for key in (*KEYS, *UPLOAD_KEYS, "module_source")}
    right = {"command": st.just("true"), "module": st.just("m:C")}
    return st.fixed_dictionaries(right, optional={k: v for k, v in good.items() if k not in right}) | (
        st.fixed_dictionaries({}, optional=good) if wild else st.nothing()
    )


@st.composite
def manifests(draw: st.DrawFn, wild: bool) -> dict[str, Any]:
    def node(name: str) -> Strategy:
        return keyed(
            Node,
            wild,
            node_id=st.just(name),
            agent_type=st.sampled_from([*AgentType, *AGENT_TYPE_ALIASES]),
            type=st.sampled_from([*Template, "accumulator"] if wild else [Template.GENERIC]),
            role=st.sampled_from(["root", "worker"]),
            config=configs(wild),
        )

    edge = keyed(
        Edge,
        wild,
        from_node=NAMES,
        to_node=NAMES,
        message_type=st.sampled_from(["*", "x", "y"]),
        routing_mode=st.sampled_from(list(RoutingMode)),
        conditions=st.fixed_dictionaries({"expr": st.sampled_from(["body.x == 'y'", '${payload.x} == "y"', "x"])}),
    )
    payloads = st.integers() | st.lists(st.integers(), max_size=2) | st.dictionaries(st.just("body"), JSON)
    manifest = keyed(
        Manifest,
        wild,
        manifest_version=st.just("1.0"),
        graph_id=st.just("g"),
        job_name=st.just("n"),
        daemon=st.booleans(),
        nodes=st.tuples(*(node(name) for name in "abc")).map(list),
        edges=st.lists(edge, max_size=5),
        entrypoints=st.lists(NAMES, min_size=1, max_size=2) | NAMES,
        initial_inputs=st.dictionaries(NAMES, payloads, max_size=2) | st.lists(payloads, max_size=2),
        policies=keyed(Policies, wild, on_idle=st.sampled_from(list(OnIdle))),
    )
    raw: dict[str, Any] = draw(manifest)
    return {**raw, "entrypoints": raw.get("entrypoints") or "a"}


@given(JSON)
def test_any_json_value_is_validated_or_refused(value: Any) -> None:
    refused(value if not isinstance(value, str) else [value])  # a string would be a path


@SLOW
@given(manifests(wild=True))
def test_anything_like_a_manifest_is_validated_or_refused(raw: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    found = refused(raw)
    assert len(set(found)) == len(found), "no issue is told twice"
    assert raw == before


@SLOW
@given(manifests(wild=False))
def test_what_is_validated_once_stays_as_it_is(raw: dict[str, Any]) -> None:
    """Validation is idempotent: a checked manifest, given again, changes no more."""
    bundle = load(raw)
    assert encode(load(bundle.manifest.to_dict()).manifest) == encode(bundle.manifest)
    assert Manifest.from_dict(decode(encode(bundle.manifest))) == bundle.manifest
    assert load(bundle) is bundle
    bundle.manifest.metadata["changed"] = True
    again = load(bundle).manifest
    assert (again.initial_inputs, again.policies) == (bundle.manifest.initial_inputs, bundle.manifest.policies)


def chain_of(length: int, *, wrong: bool = False) -> dict[str, Any]:
    """A chain of executors with conditions; with *wrong* every edge leads to a node that does not exist."""
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


def calls_of(act: Callable[[], object]) -> int:
    """How many functions of Python and C are called: a measure of work that no machine's speed changes."""
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


def test_the_work_of_validation_grows_with_the_graph_not_with_its_square() -> None:
    """A hundred times the work would be quadratic."""
    load(chain_of(10))
    small, large = chain_of(2_000), chain_of(20_000)
    assert calls_of(lambda: load(large)) < 11 * calls_of(lambda: load(small))


def test_the_work_of_finding_issues_grows_with_the_graph_not_with_its_square() -> None:
    """Names are suggested for the first ones only."""

    small, large = chain_of(2_000, wrong=True), chain_of(20_000, wrong=True)
    assert len(refused(small)) == len(small["edges"])
    assert calls_of(lambda: refused(large)) < 11 * calls_of(lambda: refused(small))
