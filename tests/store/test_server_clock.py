"""The server's time, read once in a while and advanced by the local clock."""

from __future__ import annotations

import time

import pytest

from mirrorneuron.store.job_store import Store
from mirrorneuron.store.server_clock import ServerClock


class Server:
    """Counts its readings. Its clock is one hour ahead of this machine's."""

    def __init__(self) -> None:
        self.asked = 0
        self.ahead_ms = 3_600_000

    def read(self) -> int:
        self.asked += 1
        return time.time_ns() // 1_000_000 + self.ahead_ms


@pytest.fixture
def remote() -> Server:
    return Server()


def test_the_server_is_asked_once(remote: Server) -> None:
    clock = ServerClock(remote.read)
    times = [clock.now_ms() for _ in range(100)]
    assert remote.asked == 1
    assert times == sorted(times)
    assert abs(times[-1] - remote.read()) < 60_000, "it is the server's time, not that of this machine"


def test_the_reading_is_advanced_by_the_time_that_passes(remote: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ServerClock(remote.read)
    first, monotonic, wall = clock.now_ms(), time.monotonic, time.time
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 10)
    monkeypatch.setattr(time, "time", lambda: wall() + 10)
    assert 10_000 <= clock.now_ms() - first < 70_000
    assert remote.asked == 1


@pytest.mark.parametrize(
    ("monotonic_s", "wall_s"),
    [
        pytest.param(61, 61, id="the reading is old"),
        pytest.param(0, 30, id="the machine slept, or its clock was set"),
        pytest.param(0, -30, id="its clock was set back"),
    ],
)
def test_the_server_is_asked_again(
    remote: Server, monkeypatch: pytest.MonkeyPatch, monotonic_s: float, wall_s: float
) -> None:
    clock = ServerClock(remote.read)
    clock.now_ms()
    monotonic, wall = time.monotonic, time.time
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + monotonic_s)
    monkeypatch.setattr(time, "time", lambda: wall() + wall_s)
    clock.now_ms()
    assert remote.asked == 2


def test_the_clock_of_a_test_is_not_advanced(store: Store) -> None:
    now = [1_000]
    simulated = Store(store.settings, client=store.client, clock=lambda: now[0])
    assert simulated.clock.now_ms() == 1_000
    now[0] = 5
    assert simulated.clock.now_ms() == 5
