"""Formatting of numbers, times, signals and URLs."""

from __future__ import annotations

import pytest

from mirrorneuron.text import count, printable, signal_name, span, without_password


def test_one_is_singular_and_any_other_number_plural() -> None:
    assert [count(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "a moment"), (0.9, "a moment"), (1, "1 s"), (60, "1 min"), (192, "3 min 12 s"), (7_500, "2 h 5 min"),
     (90_000, "1 d 1 h"), (86_405, "1 d 5 s")],
)  # fmt: skip
def test_a_span_has_its_two_largest_units(seconds: float, expected: str) -> None:
    assert span(round(1000 * seconds)) == expected


def test_a_signal_without_a_name_is_shown_by_its_number() -> None:
    assert [signal_name(number) for number in (15, 40)] == ["SIGTERM", "40"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://user:secret@h/0", "redis://***@h/0"),
        ("redis://user:se/cr@et@h/0", "redis://***@h/0"),
        ("unix:///run/s?db=2&password=secret", "unix:///run/s?db=2&password=***"),
        ("rediss://h?ssl_password=secret&Password=secret", "rediss://h?ssl_password=***&Password=***"),
        ("amqp://u:secret@a//;amqp://u:secret@b//", "amqp://***@a//;amqp://***@b//"),
        ("redis://:sec;ret@h", "redis://***@h"),
        ("user:secret@h", "***@h"),
        ("foo", "foo"),
        ("redis://[", "redis://["),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, expected: str) -> None:
    assert without_password(url) == expected


def test_printable_text_has_escapes_for_control_characters() -> None:
    assert printable("caf\u00e9 \x1b[31m\n\ud800") == "caf\u00e9 " + r"\x1b[31m\n\ud800"
