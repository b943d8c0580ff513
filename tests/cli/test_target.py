"""Which runtime a command talks to. No test asks what answers at the default address of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorneuron import embedded
from mirrorneuron.cli import target
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.settings import DEFAULT_REDIS_URL

_answers = target.answers  # each test has it answer what it wants
EMBEDDED = "redis://:secret@127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is configured, and nothing answers."""
    monkeypatch.delenv("MIRROR_NEURON_REDIS_URL", raising=False)
    monkeypatch.delenv("MIRROR_NEURON_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(target, "answers", lambda _url: False)


def test_a_configured_server_is_taken_untried(monkeypatch):
    monkeypatch.setenv("MIRROR_NEURON_REDIS_URL", "redis://far.example/3")
    for place in (target.find(), target.find_or_start()):
        assert (place.settings.redis_url, place.embedded) == ("redis://far.example/3", False)


def test_whatever_answers_at_the_default_address_comes_before_the_embedded_server(monkeypatch):
    monkeypatch.setattr(target, "answers", lambda url: url == DEFAULT_REDIS_URL)
    monkeypatch.setattr(embedded, "find", lambda: EMBEDDED)
    place = target.find()
    assert (place.settings.redis_url, place.embedded) == (DEFAULT_REDIS_URL, False)


def test_a_chosen_home_comes_before_the_default_address(monkeypatch, tmp_path):
    """Who sets MIRROR_NEURON_HOME wants the embedded server of that folder, and no other."""
    monkeypatch.setenv("MIRROR_NEURON_HOME", str(tmp_path))
    monkeypatch.setattr(target, "answers", lambda _url: pytest.fail("it was asked"))
    monkeypatch.setattr(embedded, "find", lambda: EMBEDDED)
    place = target.find()
    assert (place.settings.redis_url, place.embedded) == (EMBEDDED, True)


def test_where_nothing_answers_the_error_says_where_it_looked_and_what_to_do():
    with pytest.raises(RuntimeUnavailable) as caught:
        target.find()
    for words in (DEFAULT_REDIS_URL, "mn up", "mn run", "MIRROR_NEURON_REDIS_URL"):
        assert words in str(caught.value)


def test_a_server_answers_only_if_it_lets_us_in(server):
    assert _answers(server.url)
    assert not _answers(f"redis://somebody:wrong@127.0.0.1:{server.port}/0")
    assert not _answers("redis://127.0.0.1:1/0")
    assert not _answers("unix:///nowhere/at/all")


def test_processes_that_are_started_work_in_the_same_place(monkeypatch):
    monkeypatch.setattr(embedded, "find", lambda: EMBEDDED)
    assert target.find().environment()["MIRROR_NEURON_REDIS_URL"] == EMBEDDED
