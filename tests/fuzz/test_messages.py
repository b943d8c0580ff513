"""Messages from outside: each is delivered unchanged or refused with a ValueError, and agents can handle it."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorneuron.api.client import Client
from mirrorneuron.errors import MessageInvalid, PayloadTooLarge
from mirrorneuron.message import (
    EMIT_FIELDS,
    Message,
    check_emit_fields,
    decode,
    encode,
    respond,
    seed,
)
from mirrorneuron.settings import Settings
from mirrorneuron.store.protocol import Claim
from tests.fuzz.conftest import fuzzed
from tests.support.fuzzing.steps import CAP, NOW_MS, can_be_committed, claim_of, context, plan_of
from tests.support.fuzzing.values import ANYTHING, JSON, documents, mutated, nested
from workers.claim_runs import run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

FIELDS = {
    "type": "x",
    "class": "command",
    "headers": {"h": 1},
    "artifacts": [{"a": 1}],
    "stream": {"seq": 1},
    "correlation_id": "c",
    "priority": 1,
    "ttl_ms": 1.5,
    "attempt": 2,
    "content_type": "text/plain",
    "content_encoding": "identity",
}
SHORT = {**FIELDS, "body": {"x": [1]}}
STAMP = "2026-01-31T12:00:00.000Z"
FULL = {
    "envelope": {**{k: v for k, v in FIELDS.items() if k not in ("headers", "artifacts", "stream")}, "message_id": "i"},
    "headers": {"h": 1},
    "body": {"x": "y"},
    "artifacts": [],
    "stream": None,
}
STORED = seed(FULL, job_id="j", to="n", message_id="m", timestamp=STAMP)
STATE = {"received": 1, "collected": [["m", 1]], "recent": ["i"], "observations": 1, "unrouted": 1, "round_robin": 1}
PAYLOADS = st.one_of(
    mutated(SHORT),
    mutated(FULL),
    ANYTHING,
    st.dictionaries(st.sampled_from([*FIELDS, "body", "payload", "envelope", "message_id", "from"]), ANYTHING),
)
LIGHT = {
    "router": plan_of("router"),
    "router that names a type": plan_of("router", emit_type="x"),
    "aggregator": plan_of("aggregator", complete_after=2, output_message_type="x"),
    "aggregator that ends the job": plan_of("aggregator", complete_on_message=True),
    "sensor": plan_of("sensor", output_message_type="y", complete_job=True, complete_after=2),
}


def seeded(payload: Any) -> Message | None:
    """The message of *payload* after encoding and parsing; None if it was refused."""
    try:
        text = encode(seed(payload, job_id="j", to="n", message_id="m", timestamp=STAMP))
    except ValueError:
        return None
    return Message.parse(text)


@fuzzed(50)
@given(PAYLOADS)
@example({"ttl_ms": 10**400})
@example({"envelope": {"priority": -(10**400)}})
def test_any_payload_is_a_message_or_is_refused(payload: Any) -> None:
    if found := seeded(payload):
        assert all(isinstance(text, str) for text in (found.id, found.type, found.sender))
        assert found.envelope["job_id"] == "j"
        assert found.envelope["to"] == "n"
        assert found.expired(NOW_MS) in (True, False)
        assert encode(seed(found.as_dict(), job_id="j", to="n", message_id="m", timestamp=STAMP)) == encode(
            found.as_dict()
        )


@fuzzed(15)
@given(st.text(), JSON)
def test_a_payload_without_message_keys_is_the_body(name: str, value: Any) -> None:
    payload = {name + "_": value}
    found = seeded(payload)
    assert found is not None
    assert found.body == payload


@fuzzed(15)
@given(st.dictionaries(st.text() | st.integers() | st.none() | st.tuples(), st.binary() | st.floats() | JSON))
@example({"body": {1, 2}})
@example({"body": object()})
@example({"headers": {("a", 1): object()}})
@example({"body": b"\xff"})
def test_any_python_mapping_is_a_message_or_is_refused(payload: dict[Any, Any]) -> None:
    seeded(payload)


@fuzzed(30)
@given(st.dictionaries(st.sampled_from(sorted(EMIT_FIELDS)) | st.text(max_size=3), ANYTHING, max_size=4), ANYTHING)
@example({"ttl_ms": 10**400}, None)
def test_any_emit_is_a_message_or_is_refused(fields: dict[str, Any], body: Any) -> None:
    cause = Message.parse(encode(STORED))
    try:
        check_emit_fields(fields)
        made = respond(cause, fields, sender="n", type="x", body=body, timestamp=STAMP)
        found = Message.parse(encode(made))
    except ValueError:
        return
    assert (found.body, found.type, found.sender) == (body, "x", "n")
    assert found.envelope["causation_id"] == fields.get("causation_id") or cause.id
    assert found.headers.keys() >= cause.headers.keys()


@fuzzed(40)
@given(documents(STORED))
@example(b"[1]")
@example(b'"envelope"')
@example(b'{"envelope": [], "body": 1, "headers": {}, "artifacts": [], "stream": null}')
def test_any_bytes_in_a_mailbox_are_a_message_or_are_refused(data: bytes) -> None:
    try:
        found = Message.parse(data)
    except ValueError:
        return
    assert found.expired(NOW_MS) in (True, False)
    assert found.as_dict().keys() == STORED.keys()
    assert isinstance(found.stream, dict | None)


@pytest.mark.parametrize("agent", LIGHT)
@fuzzed(12)
@given(st.lists(PAYLOADS | PAYLOADS.map(lambda value: {"body": value, "type": "x"}), min_size=1, max_size=5))
@example([1, 2, {"body": nested(198)}])
@example([{"body": "x" * CAP, "type": "x"}] * 3)
def test_every_light_agent_handles_any_accepted_message(agent: str, payloads: list[Any]) -> None:
    plan = LIGHT[agent]
    try:
        claim = claim_of(*payloads)
    except ValueError:
        return
    step = run(plan.nodes["n"], claim, context(plan))
    can_be_committed(step)


@pytest.mark.parametrize("agent", LIGHT)
@fuzzed(12)
@given(st.lists(documents(STORED), min_size=1, max_size=3), st.just(b"") | documents(STATE))
def test_every_light_agent_survives_any_bytes_in_its_mailbox_and_state(
    agent: str, mail: list[bytes], state: bytes
) -> None:
    plan = LIGHT[agent]
    can_be_committed(run(plan.nodes["n"], Claim("n", state, 0, 0, 0, tuple(mail)), context(plan)))


@pytest.fixture(scope="module")
def client(redis_url: str, leaving: None) -> Client:
    """A client without workers, with a small message limit."""
    settings = Settings(redis_url=redis_url, redis_namespace=f"fuzz-{secrets.token_hex(4)}", max_message_bytes=2_000)
    return Client(settings)


@pytest.fixture(scope="module")
def ear(client: Client) -> str:
    """A job with the sensor `ear`."""
    head = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["ear"]}
    return client.run_manifest({**head, "nodes": [{"node_id": "ear", "agent_type": "sensor"}]})


@fuzzed(15)
@given(PAYLOADS)
def test_a_message_is_delivered_once_or_refused_without_any_change(client: Client, ear: str, payload: Any) -> None:
    """The two errors are MessageInvalid and PayloadTooLarge."""
    store = client._live_parts().store
    mail = store.keys.mail(ear, "ear")
    # Data of an earlier example must not change the outcome of this one, or Hypothesis could not reproduce it.
    store.client.delete(mail, f"{store.keys.job(ear)}:delivered")
    try:
        sent = client.send_message(ear, "ear", payload)
    except (MessageInvalid, PayloadTooLarge):
        assert store.client.llen(mail) == 0
        return
    (raw,) = store.client.lrange(mail, 0, -1)
    assert Message.parse(raw).id == sent
    assert len(raw) <= client.settings.max_message_bytes
    if sent in str(payload):  # the payload gives the id
        assert client.send_message(ear, "ear", payload) == sent
    assert client.inspect_agents(ear)[0]["mailbox_depth"] == 1


def test_a_message_is_the_same_after_encoding_and_parsing() -> None:
    """No JSON value changes, including the largest and the smallest numbers."""
    body: Any
    for body in (2**63, 10**30, 0.1, -0.0, 1e-308, "\0\u2028", {"": {"": []}}, [[], {}, None]):
        found = Message.parse(encode(seed({"body": body}, job_id="j", to="n", message_id="m", timestamp=STAMP)))
        assert encode(found.body) == encode(body)
        assert decode(encode(body)) == body
