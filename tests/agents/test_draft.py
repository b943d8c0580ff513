"""The step of a run: routing, inheritance, expiry, size limits, counters, inline mail. Without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mirrorneuron.agent import Action, Complete, Emit, Record
from mirrorneuron.bundle.evaluation import Meter
from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.plan import Plan, make_plan
from mirrorneuron.job import JobStatus
from mirrorneuron.message import Message, decode, encode, seed
from mirrorneuron.store.protocol import Claim, DeadLetterDraft, Step, untouched
from workers.agents.draft import DefaultEmit, Draft, StepContext
from workers.agents.failures import RunFailed
from workers.claim_runs import ClaimRuns, run, without_inline_mail

STAMP = "2026-01-31T12:00:00.000Z"
NOW_MS = 1_769_860_800_000
CAP = 4_000


def plan_of(agent: dict[str, Any], *edges: dict[str, Any], **more: dict[str, Any]) -> Plan:
    """A plan of the agent `n` under test, with *edges*, and of routers `a` to `e`."""
    given = {"node_id": "n", "agent_type": "router", **agent}
    others = [{"node_id": name, "agent_type": "router", **more.get(name, {})} for name in "abcde"]
    rows = [{"from_node": "n", "message_type": "*", **edge} for edge in edges]
    first = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["n"]}
    return make_plan(load({**first, "nodes": [given, *others], "edges": rows}).manifest)


def message(number: int = 0, body: Any = None, **payload: Any) -> bytes:
    given = {"body": {"n": number} if body is None else body, **payload}
    return encode(seed(given, job_id="j", to="n", message_id=payload.get("message_id", f"m{number}"), timestamp=STAMP))


def claim(*mail: bytes, state: dict[str, Any] | None = None, agent: str = "n", processed: int = 0) -> Claim:
    return Claim(agent, encode(state) if state else b"", processed, 0, 0, mail)


def context(plan: Plan, now_ms: int = NOW_MS) -> StepContext:
    return StepContext("tok", now_ms, lambda: now_ms, plan.nodes.keys(), CAP)


def large(plan: Plan) -> StepContext:
    """A context for messages of some 100 KB."""
    return replace(context(plan), max_message_bytes=1_000_000, meter=Meter())


def step_of(plan: Plan, *mail: bytes, state: dict[str, Any] | None = None, now_ms: int = NOW_MS) -> Step:
    return run(plan.nodes["n"], claim(*mail, state=state), context(plan, now_ms))


def answered(
    plan: Plan, actions: Sequence[Action], raw: bytes | None = None, state: dict[str, Any] | None = None
) -> Step:
    """The step of an agent that handles one message with *actions*."""
    draft = Draft(plan.nodes["n"], claim(raw or message(), state=state), context(plan))
    draft.apply(draft.messages[0], actions)
    return draft.consumed()


def sent(step: Step) -> list[str]:
    return [target for target, _ in step.outgoing]


def bodies(step: Step) -> list[Any]:
    return [decode(raw)["body"] for _, raw in step.outgoing]


def state(step: Step) -> dict[str, Any]:
    return decode(step.state) if step.state else {}


def events(step: Step) -> list[tuple[str, Any]]:
    return [(kind, decode(payload) if payload else None) for kind, payload in step.events]


def kinds(step: Step) -> list[str]:
    return [kind for kind, _ in step.events]


def mode(to: str, routing_mode: str, expr: str | None = None, message_type: str = "*") -> dict[str, Any]:
    condition = {"conditions": {"expr": expr}} if expr else {}
    return {"to_node": to, "routing_mode": routing_mode, "message_type": message_type, **condition}


# -- routing ----------------------------------------------------------------------------------------------------------


def test_broadcast_reaches_every_edge_whose_condition_holds() -> None:
    plan = plan_of({}, mode("a", "broadcast"), mode("b", "broadcast", "body.n > `5`"), mode("c", "broadcast", "body.n"))
    assert [sent(step_of(plan, message(n))) for n in (0, 9)] == [["a", "c"], ["a", "b", "c"]]


def test_first_match_reaches_the_first_edge_whose_condition_holds() -> None:
    low, high = "body.branch == 'low'", '${payload.branch} == "high"'
    plan = plan_of({}, mode("a", "first_match", low), mode("b", "first_match", high), mode("c", "first_match"))
    given = [message(body={"branch": branch}) for branch in ("low", "high", "other")]
    assert [sent(step_of(plan, raw)) for raw in given] == [["a"], ["b"], ["c"]]


def test_round_robin_reaches_one_edge_in_turn_and_keeps_its_counter() -> None:
    plan = plan_of({}, *(mode(name, "round_robin") for name in "abc"))
    first = step_of(plan, *(message(n) for n in range(4)))
    assert (sent(first), state(first)["round_robin"]) == (["a", "b", "c", "a"], {"0": 4})
    assert sent(step_of(plan, message(4), state=state(first))) == ["b"]


def test_round_robin_alternates_among_the_edges_whose_condition_holds() -> None:
    plan = plan_of({}, mode("a", "round_robin"), mode("b", "round_robin", "body.n == `9`"), mode("c", "round_robin"))
    assert sent(step_of(plan, *(message(n) for n in range(4)))) == ["a", "c", "a", "c"]


def test_round_robin_has_a_counter_for_each_set_of_competing_edges() -> None:
    """Two alternating types, and two groups of conditions: a common counter would give each the same edge forever."""
    types = plan_of({}, *(mode(to, "round_robin", message_type=kind) for to, kind in zip("abcd", "xxyy", strict=True)))
    step = answered(types, [Emit("x", 1), Emit("y", 1)] * 4)
    assert sent(step) == ["a", "c", "b", "d"] * 2
    even, odd = "body.k == 'even'", "body.k == 'odd'"
    split = plan_of({}, *(mode(to, "round_robin", k) for to, k in zip("abcd", (even, even, odd, odd), strict=True)))
    given = (message(body={"k": k}) for k in ("even", "odd") * 4)
    assert sent(step_of(split, *given)) == ["a", "c", "b", "d"] * 2


def test_mixed_modes_add_up() -> None:
    """Every broadcast edge, the first first_match edge, and one round_robin edge."""
    edges = [
        mode("a", "round_robin"),
        mode("b", "first_match", "body.n > `0`"),
        mode("c", "broadcast"),
        mode("d", "first_match"),
        mode("e", "round_robin"),
        mode("d", "broadcast", "body.n > `0`"),
    ]
    plan = plan_of({}, *edges)
    step = step_of(plan, message(0), message(1))
    assert (sorted(sent(step)[:3]), sorted(sent(step)[3:])) == (["a", "c", "d"], ["b", "c", "d", "e"])


def test_a_message_follows_only_edges_of_its_type() -> None:
    plan = plan_of({}, mode("a", "broadcast", message_type="x"), mode("b", "first_match", message_type="y"))
    assert sent(step_of(plan, message(type="x"))) == ["a"]
    assert sent(step_of(plan, message(type="y"))) == ["b"]


def test_emit_with_to_ignores_the_edges() -> None:
    plan = plan_of({}, mode("a", "broadcast"))
    step = answered(plan, [Emit("t", 1, "e"), Emit("t", 2, "n"), Emit("t", 3)])
    assert (sent(step), bodies(step)) == (["e", "n", "a"], [1, 2, 3])


def test_emit_to_a_missing_agent_fails_the_run_for_good() -> None:
    plan = plan_of({}, mode("a", "broadcast"))
    for name in ("nobody", ""):
        error = f"emit 't': no agent {name!r}; use the node_id of a node of the manifest"
        with pytest.raises(RunFailed, match=f"^{error}$") as caught:
            answered(plan, [Emit("t", 1, name)])
        assert (caught.value.permanent, caught.value.details["message"]["body"]) == (True, 1)


def test_a_type_that_no_edge_of_the_node_carries_fails_the_run_for_good() -> None:
    plan = plan_of({}, mode("a", "broadcast", message_type="finding"))
    error = "^emit 'fnding': no edge of 'n' carries this type; did you mean \"finding\"\\?$"
    with pytest.raises(RunFailed, match=error) as caught:
        answered(plan, [Emit("fnding", 42)])
    assert (caught.value.permanent, caught.value.details["message"]["body"]) == (True, 42)
    with pytest.raises(RunFailed, match=r"; its edges carry: finding$"):
        answered(plan, [Emit("other", 1)])


def test_an_unrouted_message_is_counted_and_recorded_if_an_edge_carries_its_type() -> None:
    plan = plan_of({}, mode("a", "broadcast", "body == `1`", "y"), mode("b", "broadcast", message_type="x"))
    step = answered(plan, [Emit("y", 2), DefaultEmit("z", 2), Emit("x", 3)], state={"unrouted": 5})
    assert (sent(step), state(step)["unrouted"]) == (["b"], 7)
    assert events(step) == [("message_unrouted", {"type": "y"})]


def test_an_unrouted_default_type_is_recorded_if_an_edge_carries_it() -> None:
    plan = plan_of({}, mode("a", "broadcast", "body.n == `7`", "executor_result"))
    step = answered(plan, [DefaultEmit("executor_result", {"n": 1})])
    assert events(step) == [("message_unrouted", {"type": "executor_result"})]


def test_a_condition_that_cannot_be_evaluated_fails_the_run() -> None:
    plan = plan_of({}, mode("a", "broadcast"), mode("b", "broadcast", "length(body.n) > `1`"))
    step = step_of(plan, message(1), message(2), state={"unrouted": 1})
    assert step.end is not None
    assert (step.end.status, step.consumed, step.outgoing, step.state) == (JobStatus.FAILED, 0, [], b"")
    result = decode(step.end.result)
    assert result["agent_id"] == "n"
    assert "condition of the edge to 'b'" in result["error"]
    assert "\n" not in result["error"]


def test_the_conditions_for_one_message_share_a_budget() -> None:
    """A node may have thousands of edges."""
    slow = "length(body.items[?@ > `5`]) < `0`"
    plan = plan_of({}, *(mode("a", "broadcast", slow) for _ in range(8)))
    step = run(plan.nodes["n"], claim(message(body={"items": list(range(50_000))})), large(plan))
    assert step.end
    error = decode(step.end.result)["error"]
    assert "edges[4] of 'n'" in error
    assert f"condition '{slow}'" in error
    assert "more than 1000000 steps" in error


def test_a_step_ends_when_its_conditions_have_taken_long_and_the_rest_of_the_mail_stays() -> None:
    plan = plan_of({}, mode("a", "broadcast", "length(body.items[?@ > `5`]) > `1`"))
    mail = [message(number, body={"items": list(range(15_000))}) for number in range(6)]
    step = run(plan.nodes["n"], claim(*mail), large(plan))
    assert (step.consumed, len(step.outgoing)) == (2, 2)


def test_agents_are_released_without_a_run_when_the_conditions_of_others_have_taken_long() -> None:
    plan = plan_of({}, mode("b", "broadcast", "length(body.items[?@ > `5`]) > `1`"))
    mail = message(body={"items": list(range(30_000))})
    steps = ClaimRuns(plan, [claim(mail), claim(mail, agent="a")], large(plan)).run()
    assert [step.consumed for step in steps] == [1, 0]


# -- messages ---------------------------------------------------------------------------------------------------------


def test_message_ids_are_unique_and_the_same_if_a_claim_is_run_again() -> None:
    plan = plan_of({}, mode("a", "broadcast"), mode("b", "broadcast"))
    first, again = (step_of(plan, message(1), message(2)) for _ in range(2))
    ids = [decode(raw)["envelope"]["message_id"] for _, raw in first.outgoing]
    assert len(set(ids)) == 4
    assert first.outgoing == again.outgoing
    assert [decode(raw)["envelope"]["to"] for _, raw in first.outgoing] == sent(first)


def test_an_emitted_message_inherits_from_its_cause() -> None:
    raw = message(correlation_id="c", headers={"h": 1}, artifacts=["x"], stream={"s": 1}, content_type="text/plain")
    step = answered(plan_of({}, mode("a", "broadcast")), [Emit("t", 1), Emit("t", 2, None, {"headers": {"k": 2}})], raw)
    first, second = (Message.parse(raw) for _, raw in step.outgoing)
    assert (first.envelope["correlation_id"], first.envelope["causation_id"], first.sender) == ("c", "m0", "n")
    assert (first.headers, first.artifacts, first.stream) == ({"h": 1}, ["x"], {"s": 1})
    assert (first.envelope["content_type"], second.headers) == ("text/plain", {"h": 1, "k": 2})


def test_an_expired_message_is_consumed_with_an_event_and_not_handled() -> None:
    plan = plan_of({}, mode("a", "broadcast"))
    step = step_of(plan, message(1, ttl_ms=10), message(2), now_ms=NOW_MS + 11)
    assert (step.consumed, step.processed, bodies(step)) == (2, 2, [{"n": 2}])
    assert events(step)[-1] == ("message_expired", {"message_id": "m1", "type": "init", "from": "runtime"})


def test_an_expired_message_is_not_kept_as_the_last_input() -> None:
    """The output of `on_idle` and a retry use the last message that the agent handled."""
    late, fresh = message(1, ttl_ms=5), message(2)
    for mail, last in (([fresh, late], fresh), ([late], b"")):
        assert step_of(plan_of({}), *mail, now_ms=NOW_MS + 6).last == last


def test_a_step_keeps_the_last_message_and_counts_all_messages() -> None:
    plan = plan_of({}, mode("a", "broadcast"))
    step = run(plan.nodes["n"], claim(message(1), message(2), processed=5), context(plan))
    assert (step.consumed, step.processed, step.last, step.attempts) == (2, 7, message(2), 0)


def test_an_agent_without_edges_keeps_the_last_body_that_it_emitted() -> None:
    step = answered(plan_of({}), [Emit("t", 1), Emit("t", [2])])
    assert (decode(step.output), step.outgoing) == ([2], [])
    assert answered(plan_of({}, mode("a", "broadcast")), [Emit("t", 1)]).output == b""


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ([Emit("t", "x" * CAP)], "message to 'a'"),
        ([Record("e", "x" * CAP)], "payload of event 'e'"),
        ([Record("e" * CAP + "e")], "the type of an event"),
        ([Complete("x" * CAP)], "the job's output"),
    ],
)
def test_output_over_the_limit_fails_the_run_with_both_sizes(actions: list[Action], said: str) -> None:
    with pytest.raises(RunFailed, match=said) as caught:
        answered(plan_of({}, mode("a", "broadcast")), actions)
    assert f"MIRROR_NEURON_MAX_MESSAGE_BYTES ({CAP} bytes)" in str(caught.value)


def test_an_unrouted_body_over_the_limit_fails_the_run_too() -> None:
    with pytest.raises(RunFailed, match="MAX_MESSAGE_BYTES"):
        answered(plan_of({}), [Emit("t", "x" * CAP)])


def test_a_run_over_the_limits_of_messages_events_or_bytes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.agents.draft.MAX_OUTGOING", 10)
    monkeypatch.setattr("workers.agents.draft.MAX_OUTGOING_BYTES", 6_000)
    plan = plan_of({}, mode("a", "broadcast"), mode("b", "broadcast"))
    assert len(answered(plan, [Emit("t", 1)] * 5).outgoing) == 10
    for actions, what in (
        ([Emit("t", 1)] * 6, "more than 10 messages"),
        ([Record("e")] * 11, "more than 10 events"),
        ([Emit("t", "x" * 3_000)], "more than 6000 bytes"),
        ([Record("e", "x" * 3_000)] * 2, "more than 6000 bytes"),
    ):
        with pytest.raises(RunFailed, match=what):
            answered(plan, actions)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1, 2}, object()])
def test_a_value_without_a_json_form_fails_the_run(value: object) -> None:
    plan = plan_of({}, mode("a", "broadcast"))
    for action in (Emit("t", [value]), Record("e", value), Complete({"a": value})):
        if isinstance(value, set):
            continue  # pydantic writes a set as a list
        with pytest.raises(RunFailed):
            answered(plan, [action])


def test_a_body_that_its_recipient_could_not_parse_fails_the_run_that_emits_it() -> None:
    """Each executor nests its input in its output, so a loop of 200 rounds reaches the limit."""
    body: Any = 0
    for _ in range(199):
        body = [body]
    plan = plan_of({"agent_type": "aggregator", "config": {"complete_on_message": True, "output_message_type": "t"}},
                   mode("a", "broadcast"))  # fmt: skip
    step = step_of(plan, message(body=body))
    if step.end is None:
        Message.parse(step.outgoing[0][1])


def test_a_failure_with_text_that_utf_8_cannot_encode_is_still_a_failed_step() -> None:
    plan = plan_of({})
    step = Draft(plan.nodes["n"], claim(message()), context(plan)).failed("no file \udce9", {"traceback": "\udce9"})
    assert step.end is not None


def test_the_first_completion_of_a_run_wins() -> None:
    step = answered(plan_of({}), [Complete(1), Complete(2)])
    assert step.end is not None
    assert (step.end.status, decode(step.end.result)) == (JobStatus.COMPLETED, {"agent_id": "n", "output": 1})


# -- router, sensor, aggregator ---------------------------------------------------------------------------------------


def test_a_router_forwards_each_body_with_the_type_of_its_message() -> None:
    plan = plan_of({}, mode("a", "broadcast"))
    step = step_of(plan, message(1, type="x"), message(2, type="y"))
    assert [(Message.parse(raw).type, Message.parse(raw).body["n"]) for _, raw in step.outgoing] == [("x", 1), ("y", 2)]
    assert events(step) == [
        ("agent_message_received", {"message_id": "m1", "type": "x", "from": "runtime", "count": 2})
    ]


def test_a_router_forwards_with_its_emit_type() -> None:
    plan = plan_of({"config": {"emit_type": "out"}}, mode("a", "broadcast", message_type="out"))
    step = step_of(plan, message(type="x"))
    assert [Message.parse(raw).type for _, raw in step.outgoing] == ["out"]


def test_an_unrouted_message_of_a_router_fails_the_run_only_for_a_declared_type() -> None:
    step = step_of(plan_of({}, mode("a", "broadcast", message_type="other")), message())
    assert (state(step)["unrouted"], "message_unrouted" in kinds(step)) == (1, False)
    plan = plan_of({"config": {"emit_type": "out"}}, mode("a", "broadcast", message_type="out"))
    node = plan.nodes["n"]  # validation refuses such a manifest, but one that was stored before may be run
    node = replace(node, edges={"other": node.edges["out"]})
    step = run(node, claim(message()), context(plan))
    assert step.end is not None
    assert "no edge of 'n' carries this type" in decode(step.end.result)["error"]


def test_the_limit_of_messages_applies_to_each_handled_message() -> None:
    """1,001 messages to 100 recipients each: every handled message emits only 100."""
    names = [f"r{n}" for n in range(100)]
    routers = [{"node_id": name, "agent_type": "router"} for name in ["n", *names]]
    edges = [{"from_node": "n", "to_node": name, "message_type": "*"} for name in names]
    first = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["n"]}
    plan = make_plan(load({**first, "nodes": routers, "edges": edges}).manifest)
    assert step_of(plan, *(message(n) for n in range(1_001))).end is None


def test_a_sensor_emits_what_it_observes_and_counts() -> None:
    plan = plan_of({"agent_type": "sensor"}, mode("a", "broadcast", message_type="sensor_ready"))
    step = step_of(plan, message(1), message(2), state={"observations": 3})
    assert (sent(step), bodies(step), state(step)) == (["a", "a"], [{"n": 1}, {"n": 2}], {"observations": 5})
    assert [payload["count"] for _, payload in events(step)] == [4, 5]


@pytest.mark.parametrize(("config", "count"), [({}, 1), ({"complete_after": 3}, 3)])
def test_a_sensor_completes_the_job_after_its_observations(config: dict[str, Any], count: int) -> None:
    plan = plan_of({"agent_type": "sensor", "config": {"complete_job": True, **config}})
    step = step_of(plan, *(message(n) for n in range(1, 5)))
    assert step.end is not None
    assert decode(step.end.result)["output"] == {"count": count, "last_message": {"n": count}}
    assert step_of(plan_of({"agent_type": "sensor", "config": config}), message()).end is None


def aggregator(**config: Any) -> Plan:
    return plan_of({"agent_type": "aggregator", "config": config}, mode("a", "broadcast", message_type="out"))


def test_an_aggregator_fires_with_the_collected_bodies_and_starts_empty() -> None:
    plan = aggregator(complete_after=2, output_message_type="out")
    step = step_of(plan, *(message(n) for n in range(4)))
    assert [body["messages"] for body in bodies(step)] == [[{"n": 0}, {"n": 1}], [{"n": 2}, {"n": 3}]]
    assert bodies(step)[1] == {"messages": [{"n": 2}, {"n": 3}], "count": 2, "last_message": {"n": 3}}
    assert (state(step), step.threshold, step.end) == (
        {"fired": 2, "received": 4, "recent": ["m0", "m1", "m2", "m3"]},
        2,
        None,
    )


def test_an_aggregator_keeps_the_rest_and_lowers_its_threshold() -> None:
    plan = aggregator(complete_after=3, output_message_type="out")
    step = step_of(plan, *(message(n) for n in range(5)))
    assert (len(step.outgoing), step.threshold) == (1, 1)
    later = step_of(plan, message(5), state=state(step))
    assert bodies(later)[0]["messages"] == [{"n": 3}, {"n": 4}, {"n": 5}]
    assert (later.threshold, "collected" in state(later)) == (3, False)


def test_an_aggregator_counts_a_message_once() -> None:
    plan = aggregator(complete_after=3, output_message_type="out")
    step = step_of(plan, message(1), message(1), message(2))
    assert (step.outgoing, step.threshold, step.consumed) == ([], 1, 3)
    assert "aggregator_duplicate_ignored" in kinds(step)
    again = step_of(plan, message(2), state=state(step))
    assert (again.outgoing, again.threshold) == ([], 1)


def test_an_aggregator_that_fires_on_each_message_ignores_a_duplicate_too() -> None:
    step = step_of(aggregator(complete_on_message=True, output_message_type="out"), message(1), message(1))
    assert len(step.outgoing) == 1


def test_an_aggregator_may_fire_on_each_message() -> None:
    step = step_of(aggregator(complete_on_message=True, output_message_type="out"), message(1), message(2))
    assert [body["count"] for body in bodies(step)] == [1, 1]
    assert step.threshold is None


@pytest.mark.parametrize(
    ("config", "completes", "emits"),
    [
        ({}, True, 0),
        ({"complete_job": True}, True, 0),
        ({"complete_job": False}, False, 0),
        ({"output_message_type": "out"}, False, 1),
        ({"output_message_type": "out", "complete_job": True}, True, 1),
        ({"output_message_type": "out", "complete_job": False}, False, 1),
    ],
)
def test_an_aggregator_completes_the_job_unless_it_has_a_type_to_emit(
    config: dict[str, Any], completes: bool, emits: int
) -> None:
    step = step_of(aggregator(complete_after=1, **config), message(7))
    assert (step.end is not None, len(step.outgoing)) == (completes, emits)
    if step.end:
        assert decode(step.end.result)["output"] == {"messages": [{"n": 7}], "count": 1, "last_message": {"n": 7}}


def test_an_aggregator_without_a_rule_only_counts() -> None:
    step = step_of(aggregator(complete_job=True), message(1), message(2))
    assert (step.end, step.outgoing, step.threshold, state(step)["received"]) == (None, [], None, 2)


def test_an_expired_message_is_not_collected() -> None:
    step = step_of(aggregator(complete_after=2), message(1, ttl_ms=1), message(2), now_ms=NOW_MS + 10)
    assert (step.end, step.threshold, state(step)["received"]) == (None, 1, 1)


# -- templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "given", "expected"),
    [
        ({"type": "map"}, [1, 2], {"processed": 2}),
        ({"agent_type": "aggregator", "type": "reduce"}, [1, 2], {"processed": 2}),
        ({"agent_type": "module", "type": "stream"}, [[1, 2, 3], 4], {"chunks_received": 2, "items_seen": 4}),
        ({"agent_type": "module", "type": "batch"}, [1, 2], {"batch_size": 10, "flushed_batches": 1}),
        ({"agent_type": "module", "type": "generic"}, [1], {}),
    ],
)
def test_a_template_adds_its_counters(agent: dict[str, Any], given: list[Any], expected: dict[str, int]) -> None:
    config = {"config": {"module": "m:C"}} if agent.get("agent_type") == "module" else {}
    plan = plan_of({**agent, **config})
    mail = [message(n, body=body) for n, body in enumerate(given)]
    first = Draft(plan.nodes["n"], claim(*mail), context(plan)).consumed()
    assert state(first) == expected
    second = Draft(plan.nodes["n"], claim(*mail, state=state(first) or None), context(plan)).consumed()
    assert state(second) == {name: n if name == "batch_size" else 2 * n for name, n in expected.items()}


def test_a_batch_that_was_flushed_needs_full_batches_again() -> None:
    plan = plan_of({"agent_type": "module", "type": "batch", "config": {"module": "m:C", "batch_size": 4}})
    assert Draft(plan.nodes["n"], claim(message()), context(plan)).consumed().threshold == 4


# -- failures and retries ---------------------------------------------------------------------------------------------


def test_a_run_that_is_retried_consumes_and_sends_nothing() -> None:
    plan = plan_of({}, mode("a", "broadcast"))
    draft = Draft(plan.nodes["n"], claim(message(), state={"unrouted": 1}, processed=4), context(plan))
    draft.apply(draft.messages[0], [Emit("t", 1), Emit("t", 1)])
    draft.state["changed"] = True
    draft.discard_changes()
    step = draft.retry_later(250, attempts=1, error="e", events=[("executor_retry", {"attempt": 1})])
    assert (step.consumed, step.processed, step.outgoing, state(step)) == (0, 4, [], {"unrouted": 1})
    assert (step.delay_ms, step.attempts, step.error, events(step)) == (
        250,
        1,
        "e",
        [("executor_retry", {"attempt": 1})],
    )


def test_a_state_over_the_limit_fails_the_run() -> None:
    plan = plan_of({})
    draft = Draft(plan.nodes["n"], claim(message()), context(plan))
    draft.state["user"] = "x" * CAP
    with pytest.raises(RunFailed, match="the agent's state"):
        draft.consumed()


def test_a_state_that_could_not_be_parsed_again_fails_the_run() -> None:
    """A body is nested deeper in the aggregator's state than in its message."""
    body: Any = 0
    for _ in range(198):
        body = [body]
    step = step_of(plan_of({"agent_type": "aggregator", "config": {"complete_after": 2}}), message(body=body))
    assert step.end is not None
    assert (step.end.status, step.consumed) == (JobStatus.FAILED, 0)
    assert "the agent's state cannot be written as JSON: " in decode(step.end.result)["error"]


def test_an_error_is_one_line_however_long_its_cause() -> None:
    with pytest.raises(RunFailed) as caught:
        answered(plan_of({}, mode("a", "broadcast")), [Emit("\n" * CAP, 1, None, {"headers": {"a": float("nan")}})])
    assert len(str(caught.value)) <= 1_000
    assert RunFailed("a\nb\udcff").args == ("a b?",)


def test_a_state_that_did_not_change_is_not_written() -> None:
    plan = plan_of({}, mode("a", "broadcast"))
    assert step_of(plan, message(), state={"unrouted": 1}).state == b""


# -- inline mail ------------------------------------------------------------------------------------------------------


def line() -> Plan:
    """n -> a -> b, all routers."""
    rows = [{"from_node": x, "to_node": y, "message_type": "*"} for x, y in (("n", "a"), ("a", "b"), ("b", "c"))]
    first = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["n"]}
    return make_plan(
        load({**first, "nodes": [{"node_id": x, "agent_type": "router"} for x in "nabc"], "edges": rows}).manifest
    )


def test_agents_of_one_claim_pass_their_messages_on_as_inline_mail() -> None:
    plan = line()
    claims = [claim(message(1), message(2)), claim(agent="a"), claim(agent="b")]
    steps = ClaimRuns(plan, claims, context(plan)).run()
    assert [(s.agent_id, s.consumed, s.processed, s.inline_only, sent(s)) for s in steps] == [
        ("n", 2, 2, False, []),
        ("a", 0, 2, True, []),
        ("b", 0, 2, True, ["c", "c"]),
    ]
    assert bodies(steps[2]) == [{"n": 1}, {"n": 2}]


def test_an_agent_that_was_claimed_with_mail_gets_no_inline_mail() -> None:
    """Its own mail came first; the message that is sent now comes after it in the mailbox."""
    plan = line()
    steps = ClaimRuns(plan, [claim(message(1)), claim(message(2), agent="a")], context(plan)).run()
    assert [(sent(s), s.inline_only) for s in steps] == [(["a"], False), (["b"], False)]
    assert bodies(steps[1]) == [{"n": 2}]


def test_an_agent_that_got_no_inline_mail_is_released_unchanged() -> None:
    plan = plan_of({}, mode("a", "broadcast", "body.n > `5`"))
    held = Claim("a", b'{"s":1}', 7, 2, 0, ())
    _, step = ClaimRuns(plan, [claim(message(1)), held], context(plan)).run()
    assert step == untouched(held)


def test_a_failure_in_the_middle_sends_its_inline_mail_to_the_mailbox() -> None:
    nodes = [{"node_id": x, "agent_type": "router"} for x in "nab"]
    rows = [
        {"from_node": "n", "to_node": "a", "message_type": "*"},
        {"from_node": "a", "to_node": "b", "message_type": "*", "conditions": {"expr": "length(body.n) > `1`"}},
    ]
    first = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["n"]}
    plan = make_plan(load({**first, "nodes": nodes, "edges": rows}).manifest)
    steps = ClaimRuns(plan, [claim(message(1)), claim(agent="a"), claim(agent="b")], context(plan)).run()
    assert [(s.agent_id, s.consumed, sent(s), s.end is not None) for s in steps] == [
        ("n", 1, ["a"], False),
        ("a", 0, [], True),
    ]


@pytest.mark.parametrize(("name", "most"), [("FULL_BYTES", 2_000), ("FULL_MESSAGES", 3)])
def test_a_full_commit_leaves_the_remaining_agents_to_the_next_one(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    """Agents that do not run are released unchanged, and their inline mail goes to the mailbox in order."""
    monkeypatch.setattr(f"workers.claim_runs.{name}", most)
    plan = line()
    mail = [message(number, {"n": number, "x": "x" * 500}) for number in range(4)]
    held = Claim("c", b'{"s":1}', 7, 2, 0, (message(9),))
    claims = [claim(*mail), claim(agent="a"), claim(agent="b"), held]
    first, *others = ClaimRuns(plan, claims, context(plan)).run()
    assert (first.consumed, sent(first), first.inline_mail) == (4, ["a"] * 4, [])
    assert [body["n"] for body in bodies(first)] == [0, 1, 2, 3]
    assert others == [
        Step("a", not_run=True),
        Step("b", not_run=True),
        Step("c", processed=7, attempts=2, not_run=True),
    ]


def test_all_agents_run_while_the_commit_is_not_full(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = line()
    monkeypatch.setattr("workers.claim_runs.FULL_MESSAGES", 3)
    steps = ClaimRuns(plan, [claim(message(1)), claim(agent="a"), claim(message(2), agent="b")], context(plan)).run()
    assert [step.consumed for step in steps] == [1, 0, 1]
    assert sent(steps[2]) == ["c"]


@pytest.mark.parametrize("part", ["state", "last", "output", "events", "dead"])
def test_every_part_of_a_step_counts_for_its_size(part: str) -> None:
    text = b"x" * 100
    rows: dict[str, Any] = {"events": [("t", text)], "dead": [DeadLetterDraft("m", "a", "why", text)]}
    assert replace(Step("n"), **{part: rows.get(part, text)}).size == 100


@pytest.mark.parametrize("agent", ["router", "sensor", "aggregator"])
@pytest.mark.parametrize("garbage", [b"", b"\xff", b"[]", b'{"envelope": {}}'])
def test_mail_that_is_not_a_message_fails_the_run_with_its_position_and_text(agent: str, garbage: bytes) -> None:
    step = step_of(plan_of({"agent_type": agent}), message(1), garbage)
    assert step.end is not None
    assert step.end.status is JobStatus.FAILED
    assert (step.consumed, step.outgoing) == (0, [])
    result = decode(step.end.result)
    assert result["error"].startswith("cannot parse message 2 of the mailbox: ")
    assert result["details"]["text"] == garbage.decode("utf-8", "replace")


@pytest.mark.parametrize("kept", [b"[", b"[]", b'{"recent": 1}', b'{"received": []}'])
def test_a_damaged_state_fails_the_run(kept: bytes) -> None:
    plan = plan_of({"agent_type": "aggregator"})
    step = run(plan.nodes["n"], replace(claim(message()), state=kept), context(plan))
    assert step.end is not None
    assert step.end.status is JobStatus.FAILED


def test_the_agents_after_a_released_end_are_released_too() -> None:
    """Other mail arrived for `a`, which would have ended the job on inline mail of `n`; `b` was claimed with them."""
    ending = {"agent_type": "sensor", "config": {"complete_job": True}}
    plan = plan_of({}, mode("a", "broadcast"), a=ending)
    claims = [claim(message()), claim(agent="a"), claim(agent="b")]
    steps = ClaimRuns(plan, claims, context(plan)).run()
    assert [(step.agent_id, bool(step.end)) for step in steps] == [("n", False), ("a", True)]
    again = without_inline_mail(claims, steps)
    assert [(step.agent_id, step.consumed, bool(step.end)) for step in again] == [
        ("n", 1, False),
        ("a", 0, False),
        ("b", 0, False),
    ]
    assert sent(again[0]) == ["a"]
