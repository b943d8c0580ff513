"""The clock of a running server is really set, and a library that does not work is not used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from mirrorneuron.chaos import clock
from mirrorneuron.chaos.server import Server
from tests.chaos.conftest import ahead_s

NEAR_S = 60  #: a slow machine may take some seconds between two readings; a step is minutes


needs_library = pytest.mark.skipif(clock.library() is None, reason=clock.MISSING)


@needs_library
def test_the_clock_of_a_running_server_is_set_forward_and_back(stage_server: Server):
    assert ahead_s(stage_server.url) == pytest.approx(0, abs=NEAR_S)
    stage_server.clock.step(300)
    assert ahead_s(stage_server.url) == pytest.approx(300, abs=NEAR_S)
    stage_server.clock.step(-900)
    assert ahead_s(stage_server.url) == pytest.approx(-600, abs=NEAR_S)


@needs_library
def test_a_restarted_server_keeps_its_clock(stage_server: Server):
    stage_server.clock.step(300)
    stage_server.kill()
    stage_server.start()
    assert ahead_s(stage_server.url) == pytest.approx(300, abs=NEAR_S)


@needs_library
def test_a_step_forward_ends_the_time_to_live_of_keys(stage_server: Server):
    client = redis.Redis.from_url(stage_server.url)
    client.set("key", "value", ex=250)
    stage_server.clock.step(300)
    assert client.get("key") is None


@needs_library
def test_the_time_that_passes_is_not_changed(tmp_path: Path):
    """All processes of a machine have the same monotonic clock."""
    stepped = clock.Clock(tmp_path)
    stepped.step(1_000_000)
    words = (sys.executable, "-c", "import time; print(time.time(), time.monotonic())")
    said = subprocess.run(words, env={**os.environ, **stepped.environment}, capture_output=True, text=True, check=True)
    wall, monotonic = map(float, said.stdout.split())
    assert wall - time.time() == pytest.approx(1_000_000, abs=NEAR_S)
    assert monotonic == pytest.approx(time.monotonic(), abs=NEAR_S)


@pytest.mark.parametrize("text", [None, "no library"])
def test_a_library_that_does_not_load_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None):
    broken = tmp_path / "libfaketime.so.1"
    if text:
        broken.write_text(text)
    monkeypatch.setattr(clock, "_candidates", lambda: iter([broken]))
    clock.library.cache_clear()
    try:
        assert clock.library() is None
        assert clock.Clock(tmp_path).environment == {}
    finally:
        clock.library.cache_clear()
