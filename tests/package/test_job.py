"""Job ids can be typed as an argument of every command."""

from __future__ import annotations

import re

import pytest

from mirrorneuron.job import is_job_id, new_job_id


@pytest.mark.parametrize(
    ("graph_id", "begins"),
    [
        ("research", "research-"),
        ("a b", "a-b-"),
        ("\N{LATIN CAPITAL LETTER U WITH DIAERESIS}berblick", "berblick-"),
        ("\u65e5\u5831", "job-"),
        ("\N{ROCKET} deploy", "deploy-"),
        ("-x", "x-"),
        ("--help", "help-"),
        ("..", "job-"),
        ("_private", "private-"),
        ("\u65e5" * 150 + "a", "a-"),
        ("x" * 300, "x" * 100 + "-"),
    ],
)
def test_a_new_id_begins_with_a_letter_or_digit(graph_id: str, begins: str) -> None:
    made = new_job_id(graph_id)
    assert re.fullmatch(re.escape(begins) + r"\d{13}-[0-9a-f]{12}", made)
    assert is_job_id(made)


@pytest.mark.parametrize("text", ["", ".", "..", "-", "-x", "--", "_x", ".hidden", "a b", "a/b", "a\n", "x" * 129])
def test_other_texts_are_not_job_ids(text: str) -> None:
    assert not is_job_id(text)


@pytest.mark.parametrize("text", ["a", "0", "A-b_c.d", "x" * 128, "a..", "a-"])
def test_a_text_of_the_allowed_characters_is_a_job_id(text: str) -> None:
    assert is_job_id(text)
