"""Conditions of edges: JMESPath, and the equivalent `${...}` form."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorneuron.bundle.conditions import compile_condition, holds, normalise


def message(body: Any, **headers: Any) -> dict[str, Any]:
    return {"envelope": {"type": "x"}, "headers": headers, "body": body, "artifacts": [], "stream": None}


def true_of(text: str, body: Any, **headers: Any) -> bool:
    return holds(compile_condition(text), message(body, **headers))


@pytest.mark.parametrize("text", ["body.outputs.branch == 'low'", '${payload.outputs.branch} == "low"'])
def test_both_forms_of_a_condition_mean_the_same(text: str) -> None:
    assert true_of(text, {"outputs": {"branch": "low"}})
    assert not true_of(text, {"outputs": {"branch": "high"}})
    assert not true_of(text, {})


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('${payload.outputs.branch} == "low"', "body.outputs.branch == 'low'"),
        ('"low" == ${payload.x}', "'low' == body.x"),
        ("${ payload } == 'x'", "body == 'x'"),
        ("${payload.n} >= 3 && ${headers.ok} == true", "body.n >= `3` && headers.ok == `true`"),
        ("${payload.n} != -1.5e3", "body.n != `-1.5e3`"),
        ('${payload.items}[0] == "a"', "body.items[0] == 'a'"),
        ('${payload."a key"} == "x"', "body.\"a key\" == 'x'"),
        ('${payload}."a key" == "x"', "body.\"a key\" == 'x'"),
        ('${payload.x} == "it\'s `so`"', 'body.x == `"it\'s \\`so\\`"`'),
        ("${payloads.x}", "payloads.x"),
        ("${envelope.type} == 'x'", "envelope.type == 'x'"),
        ('body.x == "low"', 'body.x == "low"'),
        ("body.x == '${payload.y}'", "body.x == '${payload.y}'"),
    ],
)
def test_the_dollar_form_becomes_plain_jmespath(text: str, plain: str) -> None:
    assert normalise(text) == plain
    assert normalise(plain) == plain


def test_a_string_that_contains_quotes_is_compared_unchanged() -> None:
    assert true_of('${payload.x} == "it\'s `so`"', {"x": "it's `so`"})
    assert true_of('${payload.x} == "a\\"b"', {"x": 'a"b'})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, False), (False, False), ("", False), ([], False), ({}, False), (0, True), ("0", True), ([0], True)],
)
def test_truth_follows_jmespath(value: Any, expected: bool) -> None:
    """In JMESPath zero is true."""
    assert true_of("body", value) is expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be empty"),
        ("body.[", "Incomplete expression"),
        ("body.x > 1", "column 9"),
        ("${payload.x", "Unknown token $"),
        ("${" + " " * 9_990, "Unknown token $"),  # no exponential backtracking over the blanks
        ("lenght(body)", 'unknown function lenght(), did you mean "length"?'),
        ("contains(body)", "contains() takes 2 arguments, not 1"),
        ("(" * 5000, "nested too deeply"),
        ("a" * 10_001, "10001 characters"),
    ],
)
def test_a_bad_condition_says_in_one_line_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        compile_condition(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_condition_that_cannot_be_evaluated_raises_a_value_error() -> None:
    with pytest.raises(ValueError, match="invalid type for value"):
        true_of("length(body.x)", {"x": 3})


@given(st.text(max_size=60) | st.text("${}[]().'\"`&|=<>! abpx01@*?,:\\", max_size=40))
def test_any_text_compiles_or_raises_a_value_error(text: str) -> None:
    try:
        compiled = compile_condition(text)
    except ValueError:
        return
    with contextlib.suppress(ValueError):
        assert holds(compiled, message({"a": [1, {"b": "x"}]})) in (True, False)
    assert normalise(normalise(text)) == normalise(text)
