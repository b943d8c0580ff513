"""When a sweeper assumes an outage of the store, and when it notices a step of the server's clock."""

from __future__ import annotations

import pytest

from workers.recovery.outages import Outages

NOON_MS = 1_700_000_000_000


class Process:
    """One worker: its view of the server, its monotonic clock, and the server's clock. A tick takes *tick_s*."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.outages = Outages(silence_s=3, fleet_s=6)
        self.tick_s = tick_s
        self.at = 1_000.0
        self.server_ms = NOON_MS

    def tick(self, after_s: float, swept_ms: int | None = None) -> bool:
        """Let time pass and tick. Returns True if the store was unavailable meanwhile."""
        self.passes(after_s)
        self.outages.tick_begins(self.at)
        after_gap = self.outages.reading(self.server_ms, swept_ms, self.at)
        for _ in range(20):
            self.passes(self.tick_s / 20)
            self.outages.answered(self.at)
        return after_gap

    def passes(self, seconds: float) -> None:
        self.at += seconds
        self.server_ms += round(seconds * 1_000)


def test_a_long_time_between_two_ticks_is_an_outage() -> None:
    one = Process()
    assert [one.tick(after_s) for after_s in (0, 1, 3, 3.1, 1)] == [False, False, False, True, False]


def test_a_slow_sweep_is_no_outage() -> None:
    """With 0.4 s a round trip, a sweep of some jobs takes longer than an outage."""
    one = Process(tick_s=20)
    assert [one.tick(1.4) for _ in range(4)] == [False] * 4


def test_an_outage_within_the_first_reading_is_noticed() -> None:
    one = Process()
    one.outages.tick_begins(one.at)
    one.passes(4)
    assert one.outages.reading(one.server_ms, None, one.at) is True


def test_a_command_that_failed_is_an_outage_however_short() -> None:
    one = Process()
    one.tick(0)
    one.outages.failed = True
    assert [one.tick(0.1), one.tick(0.1)] == [True, False]


@pytest.mark.parametrize(("took_s", "after_gap"), [(3, False), (3.1, True)])
def test_an_answer_that_took_long_is_an_outage(took_s: float, after_gap: bool) -> None:
    """The client rides out a short outage within a command."""
    one = Process()
    one.tick(0)
    one.passes(took_s)
    one.outages.answered(one.at)
    assert [one.tick(1), one.tick(1)] == [after_gap, False]


@pytest.mark.parametrize(("ago_ms", "after_gap"), [(0, False), (6_000, False), (6_001, True)])
def test_a_process_that_has_just_started_compares_the_last_sweep_of_any_worker(ago_ms: int, after_gap: bool) -> None:
    assert Process().tick(0, swept_ms=NOON_MS - ago_ms) is after_gap


def test_the_first_sweep_of_all_comes_after_no_gap() -> None:
    assert Process().tick(0, swept_ms=None) is False


def test_the_sweeps_of_other_workers_do_not_matter_afterwards() -> None:
    one = Process()
    one.tick(0)
    assert one.tick(1, swept_ms=NOON_MS - 60_000) is False


def test_a_clock_that_is_set_forward_is_an_outage() -> None:
    """It ends all leases early."""
    one = Process()
    one.tick(0)
    one.server_ms += 600_000
    assert [one.tick(1), one.tick(1)] == [True, False]
    assert one.outages.set_back is False


def test_a_clock_that_is_set_back_is_remembered_until_the_next_sweep() -> None:
    one = Process()
    one.tick(0)
    one.server_ms -= 600_000
    assert [one.tick(1), one.tick(1)] == [False, False]
    assert one.outages.set_back is True


def test_a_clock_that_was_set_back_before_the_process_started_is_noticed() -> None:
    one = Process()
    one.tick(0, swept_ms=NOON_MS + 600_000)
    assert one.outages.set_back is True


def test_small_corrections_of_the_clock_are_no_step() -> None:
    one = Process()
    for _ in range(100):
        one.server_ms -= 300
        one.tick(1)
    assert one.outages.set_back is False
