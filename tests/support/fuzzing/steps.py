"""Runs of one agent without a server, and the properties of every resulting step."""

from __future__ import annotations

from typing import Any, Final

from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.plan import Plan, make_plan
from mirrorneuron.message import Message, decode, encode, seed
from mirrorneuron.store.protocol import Claim, Step
from workers.agents.draft import StepContext

CAP: Final = 20_000
NOW_MS: Final = 1_769_860_800_000
LONGEST_ERROR: Final = 2_000

_EDGES: Final[list[dict[str, Any]]] = [
    {"to_node": "a", "message_type": "*"},
    {"to_node": "b", "message_type": "x", "routing_mode": "first_match", "conditions": {"expr": "body.x"}},
    {"to_node": "a", "message_type": "x", "routing_mode": "round_robin"},
    {"to_node": "b", "message_type": "y", "conditions": {"expr": "headers.h && length(to_string(body)) > `2`"}},
]


def plan_of(agent_type: str, **config: Any) -> Plan:
    """A plan of the agent `n`, with edges of every kind to the routers `a` and `b`."""
    needed: dict[str, dict[str, Any]] = {"executor": {"command": "true"}, "module": {"module": "m:C"}}
    required = needed.get(agent_type, {})
    nodes = [{"node_id": "n", "agent_type": agent_type, "config": {**required, **config}}]
    nodes += [{"node_id": name, "agent_type": "router"} for name in "ab"]
    edges = [{**edge, "from_node": "n"} for edge in _EDGES]
    head = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["n"]}
    return make_plan(load({**head, "nodes": nodes, "edges": edges}).manifest)


def context(plan: Plan, cap: int = CAP) -> StepContext:
    return StepContext("token", NOW_MS, lambda: NOW_MS, plan.nodes.keys(), cap)


def claim_of(*payloads: Any, state: bytes = b"") -> Claim:
    """A claim of `n` with one message for each payload. Raises ValueError for an invalid payload."""
    mail = (
        encode(seed(payload, job_id="j", to="n", message_id=f"m{number}", timestamp="2026-01-31T12:00:00.000Z"))
        for number, payload in enumerate(payloads)
    )
    return Claim("n", state, 0, 0, 0, tuple(mail))


def can_be_committed(step: Step, cap: int = CAP) -> None:
    """Assert that *step* can be committed and stored, and that its messages can be read and have a legal size."""
    for text in (step.agent_id, step.error, *(kind for kind, _ in step.events)):
        text.encode()
    assert len(step.error) <= LONGEST_ERROR
    assert len(step.error.splitlines()) <= 1
    assert not step.state or isinstance(decode(step.state), dict)
    decode(step.output or b"null")
    for target, raw in step.outgoing:
        message = Message.parse(raw)
        assert target in ("n", "a", "b")
        assert (message.envelope["to"], message.envelope["from"]) == (target, "n")
        assert message.id
    for kind, payload in step.events:
        assert 0 < len(kind.encode()) <= cap
        decode(payload or b"null")
    sizes = [step.state, step.output, *(raw for _, raw in (*step.outgoing, *step.events))]
    if step.end is not None:
        sizes += [step.end.result, step.end.summary]
        assert decode(step.end.result)["agent_id"] == decode(step.end.summary)["agent_id"] == "n"
    assert max(map(len, sizes)) <= cap
