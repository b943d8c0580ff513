"""Which runtime a command uses. No test connects to the default address of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorneuron import embedded
from mirrorneuron.cli import target
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.settings import DEFAULT_REDIS_URL, Settings

_answers = target.answers  # the original; tests replace it
EMBEDDED = "redis://:secret@127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server is configured, and none answers."""
    monkeypatch.delenv("MIRROR_NEURON_REDIS_URL", raising=False)
    monkeypatch.delenv("MIRROR_NEURON_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(target, "answers", lambda _url: False)


def test_a_configured_server_is_used_without_a_connection_test(monkeypatch):
    monkeypatch.setenv("MIRROR_NEURON_REDIS_URL", "redis://far.example/3")
    for place in (target.find(), target.find_or_start()):
        assert (place.settings.redis_url, place.embedded) == ("redis://far.example/3", False)


def test_a_server_at_the_default_address_is_preferred_to_the_embedded_server(monkeypatch):
    monkeypatch.setattr(target, "answers", lambda url: url == DEFAULT_REDIS_URL)
    monkeypatch.setattr(embedded, "find", lambda: EMBEDDED)
    place = target.find()
    assert (place.settings.redis_url, place.embedded) == (DEFAULT_REDIS_URL, False)


def test_a_configured_home_is_preferred_to_the_default_address(monkeypatch, tmp_path):
    """MIRROR_NEURON_HOME selects the embedded server of that folder."""
    monkeypatch.setenv("MIRROR_NEURON_HOME", str(tmp_path))
    monkeypatch.setattr(target, "answers", lambda _url: pytest.fail("the default address was tried"))
    monkeypatch.setattr(embedded, "find", lambda: EMBEDDED)
    place = target.find()
    assert (place.settings.redis_url, place.embedded) == (EMBEDDED, True)


def test_without_a_server_the_error_says_what_was_tried_and_what_to_do():
    with pytest.raises(RuntimeUnavailable) as caught:
        target.find()
    for words in (DEFAULT_REDIS_URL, "mn up", "mn run", "MIRROR_NEURON_REDIS_URL"):
        assert words in str(caught.value)


def test_a_server_that_rejects_the_credentials_does_not_count(server):
    assert _answers(server.url)
    assert not _answers(f"redis://somebody:wrong@127.0.0.1:{server.port}/0")
    assert not _answers("redis://127.0.0.1:1/0")
    assert not _answers("unix:///nowhere/at/all")


def test_child_processes_use_the_same_runtime(monkeypatch):
    monkeypatch.setattr(embedded, "find", lambda: EMBEDDED)
    assert target.find().environment()["MIRROR_NEURON_REDIS_URL"] == EMBEDDED


def test_a_child_process_finds_relative_paths_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "lib:/abs:")
    monkeypatch.setenv("MIRROR_NEURON_HOME", "home")
    monkeypatch.setenv("MIRROR_NEURON_TEMP_DIR", "temp")
    environment = target.Place(Settings()).environment()
    assert environment["PYTHONPATH"] == f"{tmp_path}/lib:/abs:{tmp_path}"
    assert environment["MIRROR_NEURON_HOME"] == f"{tmp_path}/home"
    assert environment["MIRROR_NEURON_TEMP_DIR"] == f"{tmp_path}/temp"
