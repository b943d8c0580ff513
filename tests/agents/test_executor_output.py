"""Answers of executors: what they ask for, and which are malformed."""

from __future__ import annotations

import json
import re

import pytest

from mirrorneuron.agent import Complete, Emit, Record
from tests.support.answers import parse_output
from workers.agents.executor_output import UNSET, Answer


def parse(**found) -> Answer:
    parsed = parse_output(json.dumps(found))
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    "stdout",
    [
        "",
        "done",
        "[1]",
        '"next_state"',
        '{"result": 1}',
        '{"result": 1',
        '{"result": NaN, "events": []}',
        "{braces, and no JSON}",
    ],
)
def test_output_that_is_not_a_json_object_with_one_of_the_keys_is_plain(stdout):
    assert parse_output(stdout) is None


@pytest.mark.parametrize(
    ("stdout", "said"),
    [
        (
            '{"next_state": 1',
            "contains next_state, but is not valid JSON: EOF while parsing an object at line 1 column 16",
        ),
        (
            '{"next_state": 1} trailing',
            "contains next_state, but is not valid JSON: trailing characters at line 1 column 19",
        ),
        (
            '{"a": 1, "complete_job?": NaN}',
            "contains complete_job?, but is not valid JSON: expected value at line 1 column 27",
        ),
        (
            "{'emit_messages': []}",
            "contains emit_messages, but is not valid JSON: key must be a string at line 1 column 2",
        ),
        ('{"next_state": ' + "[" * 100_000, "contains next_state, but is not valid JSON: "),
    ],
)
def test_intended_structured_output_that_is_not_valid_json_is_an_error_with_its_place(stdout, said):
    """If it counted as plain output, what it asks for would be lost silently."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}[^\n]*$"):
        parse_output(stdout)


@pytest.mark.parametrize(
    ("stdout", "said"),
    [
        ('{"emit_messages": [{"type": "a"}], "emit_messages": []}', "emit_messages: duplicate key"),
        ('{"next_state": {"n": 1, "n": 2}}', "next_state.n: duplicate key"),
    ],
)
def test_a_duplicate_key_of_structured_output_is_an_error_with_its_path(stdout, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        parse_output(stdout)


def test_plain_output_may_have_duplicate_keys():
    assert parse_output('{"a": 1, "a": 2}') is None


def test_white_space_around_the_object_is_ignored():
    assert parse_output('\n {"next_state": 1}\n\n').next_state == 1


def test_events_come_first_then_emits_then_the_completion():
    parsed = parse(
        complete_job={"sum": 55},
        emit_messages=[{"type": "a", "body": [1]}, {"type": "b", "payload": 2, "to": "node"}, {"type": "c"}],
        events=[{"type": "seen", "payload": {"n": 1}}, {"type": "bare"}],
    )
    assert parsed.actions == [
        Record("seen", {"n": 1}),
        Record("bare", None),
        Emit("a", [1]),
        Emit("b", 2, "node"),
        Emit("c", {}),
        Complete({"sum": 55}),
    ]
    assert parsed.next_state is UNSET
    assert not parsed.complete_default


def test_message_fields_are_passed_on_and_unknown_keys_ignored():
    fields = {
        "class": "stream",
        "headers": {"h": 1},
        "artifacts": [{}],
        "stream": {"seq": 1},
        "content_type": "application/x-ndjson",
        "content_encoding": "gzip",
        "correlation_id": "c",
        "causation_id": "x",
    }
    [emit] = parse(emit_messages=[{"type": "a", "body": None, "message_id": 7, "note": "?", **fields}]).actions
    assert emit == Emit("a", None, None, fields)


def test_a_next_state_of_null_is_a_state():
    assert parse(next_state=None).next_state is None
    assert parse(events=[]).next_state is UNSET


@pytest.mark.parametrize(
    ("found", "default", "actions"),
    [
        ({"complete_job?": True}, True, []),
        ({"complete_job?": False}, False, []),
        ({"complete_job?": None, "complete_job": None, "events": None, "emit_messages": None}, False, []),
        ({"complete_job?": True, "complete_job": 0}, False, [Complete(0)]),
        ({"complete_job": False}, False, [Complete(False)]),
    ],
)
def test_complete_job_takes_precedence_over_its_default_form(found, default, actions):
    parsed = parse(**found)
    assert (parsed.complete_default, parsed.actions) == (default, actions)


def test_base64_bodies_keep_their_text_and_have_octet_stream_as_their_default_type():
    entries = [
        {"type": "a", "body_base64": "AP8="},
        {"type": "a", "body_base64": "AP\n8=\n", "content_type": "image/png"},
        {"type": "a", "body_base64": ""},
    ]
    assert parse(emit_messages=entries).actions == [
        Emit("a", "AP8=", None, {"content_type": "application/octet-stream"}),
        Emit("a", "AP8=", None, {"content_type": "image/png"}),
        Emit("a", "", None, {"content_type": "application/octet-stream"}),
    ]


OK = {"type": "ok"}


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ({"emit_messages": {}}, "emit_messages: must be a list"),
        ({"emit_messages": [OK, "x"]}, "emit_messages[1]: must be an object"),
        ({"emit_messages": [OK, OK, {}]}, "emit_messages[2].type: must be a non-empty string"),
        ({"emit_messages": [{"type": ""}]}, "emit_messages[0].type: must be a non-empty string"),
        ({"emit_messages": [{**OK, "to": 3}]}, "emit_messages[0].to: must be an agent id"),
        ({"emit_messages": [{**OK, "headers": []}]}, "emit_messages[0].headers: headers must be an object"),
        ({"emit_messages": [{**OK, "class": 1}]}, "emit_messages[0].class: class must be a string, not int"),
        (
            {"emit_messages": [{**OK, "body": 1, "body_base64": "AA=="}]},
            "emit_messages[0]: has body and body_base64; give only one of them",
        ),
        (
            {"emit_messages": [{**OK, "body_base64": "A"}]},
            "emit_messages[0].body_base64: must be a base64 string",
        ),
        ({"emit_messages": [{**OK, "body_base64": 5}]}, "emit_messages[0].body_base64: must be a base64 string"),
        (
            {"emit_messages": [{**OK, "body_base64": "ü==="}]},
            "emit_messages[0].body_base64: must be a base64 string",
        ),
        ({"events": "x"}, "events: must be a list"),
        ({"events": [{"payload": {}}]}, "events[0].type: must be a non-empty string"),
        ({"complete_job?": "yes"}, "complete_job?: must be true or false"),
    ],
)
def test_a_malformed_entry_is_a_one_line_error_with_its_place(found, error):
    with pytest.raises(ValueError, match=r".") as raised:
        parse(**found)
    assert str(raised.value) == error
