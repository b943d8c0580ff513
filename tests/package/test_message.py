"""Messages: initial messages, inherited fields of emitted ones, expiry, and values that JSON cannot represent."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from mirrorneuron.job import ms_of
from mirrorneuron.message import EMIT_FIELDS, Message, check_emit_fields, decode, encode, respond, seed

STAMP = "2026-01-31T12:00:00.000Z"
STAMP_MS = 1_769_860_800_000


def sown(payload: Any) -> dict[str, Any]:
    return seed(payload, job_id="j", to="a", message_id="m1", timestamp=STAMP)


def cause(**payload: Any) -> Message:
    return Message.parse(encode(sown({"body": 0, **payload})))


def answer(old: Message, **fields: Any) -> dict[str, Any]:
    check_emit_fields(fields)
    return respond(old, fields, sender="a", type="out", body=1, timestamp=STAMP)


def test_a_seed_has_the_envelope_of_the_contract() -> None:
    assert sown({}) == {
        "envelope": {
            "spec_version": "mn-msg/1",
            "message_id": "m1",
            "job_id": "j",
            "from": "runtime",
            "to": "a",
            "type": "init",
            "class": "command",
            "timestamp": STAMP,
            "attempt": 1,
            "priority": 100,
            "content_type": "application/json",
            "content_encoding": "identity",
        },
        "headers": {},
        "body": {},
        "artifacts": [],
        "stream": None,
    }


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        ({"n": 1, "m": 2}, {"n": 1, "m": 2}),
        ({"body": [1]}, [1]),
        ({"payload": "text"}, "text"),
        ({"body": None, "payload": 2}, None),
        ({"type": "task", "n": 1}, {"n": 1}),
        ({"type": "task"}, {}),
        ([1, 2], [1, 2]),
        ("text", "text"),
        (None, None),
        ({"envelope": {"type": "task"}, "body": 3}, 3),
        ({"envelope": {}, "payload": 4}, 4),
        ({"envelope": {}}, {}),
    ],
)
def test_the_body_of_a_payload(payload: Any, body: Any) -> None:
    assert sown(payload)["body"] == body


@pytest.mark.parametrize("wrapped", [False, True])
def test_envelope_fields_in_a_payload_go_to_the_envelope(wrapped: bool) -> None:
    names = {
        "type": "task",
        "class": "event",
        "from": "outside",
        "message_id": "own",
        "correlation_id": "c",
        "ttl_ms": 5,
    }
    parts = {"headers": {"h": 1}, "artifacts": ["a"], "stream": {"seq": 1}, "body": 1}
    message = sown({"envelope": names, **parts} if wrapped else {**names, **parts})
    assert {name: message["envelope"][name] for name in names} == names
    assert {name: message[name] for name in parts} == parts


def test_a_payload_cannot_set_job_id_and_to() -> None:
    envelope = sown({"envelope": {"job_id": "other", "to": "other", "spec_version": "9"}})["envelope"]
    assert (envelope["job_id"], envelope["to"], envelope["spec_version"]) == ("j", "a", "mn-msg/1")


def test_a_null_field_counts_as_absent() -> None:
    message = sown({"type": None, "headers": None, "artifacts": None, "stream": None, "n": 1})
    assert (message["envelope"]["type"], message["headers"], message["artifacts"], message["body"]) == (
        "init",
        {},
        [],
        {"n": 1},
    )


@pytest.mark.parametrize(
    "payload",
    [
        {"type": 5},
        {"headers": []},
        {"artifacts": {}},
        {"stream": 1},
        {"ttl_ms": "5"},
        {"ttl_ms": -1},
        {"ttl_ms": True},
        {"priority": float("inf")},
        {"ttl_ms": 10**400},
        {"envelope": "x"},
        {"envelope": {"type": 1}},
    ],
)
def test_a_payload_with_a_field_of_the_wrong_type_is_refused(payload: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        sown(payload)


def test_an_emitted_message_names_its_cause_and_inherits_fields() -> None:
    old = cause(
        correlation_id="c",
        headers={"h": 1, "k": 2},
        artifacts=["a"],
        stream={"seq": 1},
        content_type="text/plain",
        content_encoding="gzip",
    )
    message = answer(old)
    envelope = message["envelope"]
    assert (envelope["causation_id"], envelope["correlation_id"], envelope["from"]) == ("m1", "c", "a")
    assert (envelope["content_type"], envelope["content_encoding"]) == ("text/plain", "gzip")
    assert (message["headers"], message["artifacts"], message["stream"]) == ({"h": 1, "k": 2}, ["a"], {"seq": 1})
    assert (envelope["class"], envelope["attempt"], envelope["job_id"]) == ("event", 1, "j")


def test_an_emitted_message_overrides_fields_and_merges_headers() -> None:
    old = cause(correlation_id="c", headers={"h": 1, "k": 2}, artifacts=["a"], stream={"seq": 1}, priority=7)
    message = answer(old, headers={"h": 9}, artifacts=[], stream=None, correlation_id="d", ttl_ms=50, causation_id="x")
    envelope = message["envelope"]
    assert (message["headers"], message["artifacts"], message["stream"]) == ({"h": 9, "k": 2}, [], None)
    assert (envelope["correlation_id"], envelope["ttl_ms"], envelope["causation_id"]) == ("d", 50, "x")
    assert envelope["priority"] == 100  # not inherited


def test_absent_fields_are_left_out_of_the_envelope() -> None:
    envelope = answer(cause())["envelope"]
    assert not {"correlation_id", "ttl_ms"} & envelope.keys()


@pytest.mark.parametrize("name", ["message_id", "from", "to", "type", "timestamp", "body", "nonsense"])
def test_a_field_that_an_agent_cannot_set_is_refused(name: str) -> None:
    assert name not in EMIT_FIELDS
    with pytest.raises(ValueError, match=f"'{name}' is not a message field"):
        check_emit_fields({name: "x"})


@pytest.mark.parametrize(("late_ms", "expired"), [(0, False), (500, False), (501, True)])
def test_a_message_expires_after_its_time_to_live(late_ms: int, expired: bool) -> None:
    assert cause(ttl_ms=500).expired(STAMP_MS + late_ms) is expired


def test_a_message_without_a_time_to_live_never_expires() -> None:
    assert cause().expired(STAMP_MS * 1_000) is False


@pytest.mark.parametrize("stamp", ["yesterday", ""])
def test_a_message_with_an_unreadable_timestamp_never_expires(stamp: str) -> None:
    old = cause(ttl_ms=1)
    damaged = replace(old, envelope={**old.envelope, "timestamp": stamp})
    assert damaged.expired(STAMP_MS * 1_000) is False


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_a_time_without_a_zone_is_utc(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        stamp = "2026-01-31T12:00:00"
        assert ms_of(stamp) == ms_of(f"{stamp}Z") == ms_of("2026-01-31T21:00:00+09:00")
        assert [cause(timestamp=stamp, ttl_ms=5).expired(ms_of(stamp) + late) for late in (5, 6)] == [False, True]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("stamp", ["yesterday", "", "12:00", "1769860800", "2026-13-01T00:00:00Z"])
def test_a_timestamp_that_is_no_time_is_refused(stamp: str) -> None:
    with pytest.raises(ValueError, match="timestamp must be an ISO 8601 time, like 2026-"):
        seed({"timestamp": stamp, "body": 1}, job_id="j", to="a", message_id="m", timestamp="2026-01-31T12:00:00.000Z")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")], {"a": float("nan")}])
def test_nan_and_infinity_are_not_json(value: Any) -> None:
    with pytest.raises(ValueError, match="column"):
        encode({"value": value})


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "", "{", '{"a":1,}', "[1]]", '"\\ud800"'])
def test_an_error_in_json_has_line_and_column(text: str) -> None:
    with pytest.raises(ValueError, match="line 1 column"):
        decode(text)


@pytest.mark.parametrize(
    "value", ["NaN", {"Infinity": "-Infinity"}, "\u0000é\U0001f600", 12345678901234567890, {"": []}]
)
def test_json_values_survive_encode_and_decode(value: Any) -> None:
    assert decode(encode(value)) == value


def test_text_that_utf8_cannot_encode_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode({"text": "\ud800"})


def test_a_message_has_its_envelope_fields_as_properties() -> None:
    old = cause(type="task", **{"from": "b"})
    assert (old.id, old.type, old.sender, old.body) == ("m1", "task", "b", 0)
    assert old.as_dict()["envelope"] == old.envelope


@pytest.mark.parametrize("raw", [b"", b"1", b"{}", b'{"envelope":{}}', b"[1]", b'"envelope"'])
def test_bytes_that_are_not_a_message_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"invalid message|line 1"):
        Message.parse(raw)


@pytest.mark.parametrize("part", ["envelope", "headers", "artifacts", "stream"])
def test_a_message_with_a_part_of_the_wrong_type_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="invalid message"):
        Message.parse(encode({**sown({}), part: "text"}))
