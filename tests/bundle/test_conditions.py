"""Conditions of edges: JMESPath, and the equivalent `${...}` form."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorneuron.bundle import evaluation
from mirrorneuron.bundle.conditions import compile_condition, holds, normalise
from mirrorneuron.bundle.evaluation import Meter


def message(body: Any, **headers: Any) -> dict[str, Any]:
    return {"envelope": {"type": "x"}, "headers": headers, "body": body, "artifacts": [], "stream": None}


def true_of(text: str, body: Any, **headers: Any) -> bool:
    return holds(compile_condition(text), message(body, **headers), Meter())


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
        (" || ".join(["body.x"] * 201), "nested too deeply; at most 200"),
        ("body" + "[*]" * 51, "51 projections and filters; at most 50"),
        (f"[{', '.join(['abs(body)'] * 201)}]", "201 function calls; at most 200"),
    ],
)
def test_a_bad_condition_says_in_one_line_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        compile_condition(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_condition_that_cannot_be_evaluated_raises_a_value_error() -> None:
    with pytest.raises(ValueError, match="does not accept number"):
        true_of("length(body.x)", {"x": 3})


@given(st.text(max_size=60) | st.text("${}[]().'\"`&|=<>! abpx01@*?,:\\", max_size=40))
def test_any_text_compiles_or_raises_a_value_error(text: str) -> None:
    try:
        compiled = compile_condition(text)
    except ValueError:
        return
    with contextlib.suppress(ValueError):
        assert holds(compiled, message({"a": [1, {"b": "x"}]}), Meter()) in (True, False)
    assert normalise(normalise(text)) == normalise(text)


def doubled(times: int) -> str:
    """An expression whose value has 2 to the *times* elements if it is written out; it takes little memory itself."""
    return f"(body | {' | '.join(['[@, @]'] * times)})"


@pytest.mark.parametrize(
    "text",
    [
        f"(body | {' | '.join(['[@, @][]'] * 20)})",  # 2^20 elements
        f"to_string({doubled(60)})",
        f"{doubled(60)} == {doubled(60)}",
        f"{doubled(60)} != {doubled(60)}",
        f"contains({doubled(1)}, {doubled(60)}) || contains([{doubled(60)}], {doubled(60)})",
        f"join('x', [{', '.join(['body.text'] * 400)}])",
        f"[{', '.join(['body.items[?@ > `1`]'] * 40)}]",
        f"[{', '.join(['sort(body.items)'] * 20)}]",
        f"[{', '.join(['sort_by(body.items, &@)'] * 20)}]",
        f"[{', '.join(['reverse(body.text)'] * 190)}]",
        f"[{', '.join(['body.items[::-1]'] * 49)}]",
    ],
)
def test_an_evaluation_has_a_budget_of_time_and_memory(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is counted in steps, so that it does not depend on the machine. A tenth of it here, for speed."""
    monkeypatch.setattr(evaluation, "MAX_STEPS", evaluation.MAX_STEPS // 10)
    condition = compile_condition(text)
    everything = message({"items": list(range(20_000)), "text": "x" * 1_000_000})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 100000 steps") as caught:
            holds(condition, everything, Meter())
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("function", ["abs", "keys", "join"])
def test_the_error_of_a_function_does_not_hold_the_value_it_refuses(function: str) -> None:
    """The value can be far larger than the memory when it is written out."""
    arguments = f"'x', [{doubled(60)}]" if function == "join" else doubled(60)
    with pytest.raises(ValueError, match=rf"{function}\(\) does not accept") as caught:
        true_of(f"{function}({arguments})", {})
    assert len(str(caught.value)) < 250


def test_ordinary_conditions_on_large_messages_are_within_the_budget() -> None:
    body = {"items": [{"score": n, "name": f"n{n}"} for n in range(50_000)], "text": "x" * 4_000_000}
    assert true_of("length(body.items[?score > `10` && name != 'x']) > `3`", body)
    assert true_of("contains(body.text, 'y') || body.text != 'low'", body)
    assert true_of("length(body.items) > `3` && body.items[0:2] && max_by(body.items, &score).score > `5`", body)


def test_a_meter_has_one_budget_until_it_is_renewed() -> None:
    meter, body = Meter(), message({"items": list(range(100_000))})
    condition = compile_condition("body.items[?@ > `5`]")
    assert holds(condition, body, meter)
    with pytest.raises(ValueError, match="more than"):
        [holds(condition, body, meter) for _ in range(3)]
    meter.renew()
    assert holds(condition, body, meter)


@pytest.mark.parametrize(
    "text",
    [
        "\\'" * 20_000 + "${a}",
        "\\'" * 20_000 + "${a}'\\",
        "${a}" + '\\"' * 20_000,
        "${a}" + "\\`" * 20_000 + "\\",
        "${a} == " + "1" * 40_000 + "x",
        '${a} "' + " " * 40_000,
        '${a} ."' + "x" * 40_000,
        "${" * 20_000,
        "'\"`" * 13_000 + "${a}",
    ],
)
def test_any_text_is_normalised_in_linear_time(text: str) -> None:
    """Quadratic work on these texts takes 10 s and more of processor time, linear work some milliseconds."""
    started = time.process_time()
    normalise(text)
    assert time.process_time() - started < 1
