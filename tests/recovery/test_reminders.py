"""When agents that stay ready are announced again."""

from __future__ import annotations

import pytest

from workers.recovery.reminders import Ready, Reminders

KEY = ("job", "default")
X: Ready = ("x", 1)
Y: Ready = ("y", 2)


@pytest.fixture
def reminders() -> Reminders:
    """Those of a sweeper that has swept before."""
    made = Reminders(first_wait_s=5, longest_wait_s=15)
    made.sweep_ended([])
    return made


def announced_at(reminders: Reminders, oldest: Ready, begin: int, end: int) -> list[int]:
    """The seconds at which agents that nobody claims are announced."""
    made = []
    for second in range(begin, end):
        if reminders.is_due(KEY, oldest, second - begin, second):
            reminders.announced(KEY, second)
            made.append(second)
        reminders.sweep_ended([KEY])
    return made


def test_the_wait_doubles_up_to_the_longest(reminders: Reminders) -> None:
    """A long queue is not a loss."""
    assert announced_at(reminders, X, 100, 165) == [105, 115, 130, 145, 160]


def test_the_wait_doubles_only_with_announcements_that_were_made(reminders: Reminders) -> None:
    """While the queue is long none is made; after the loss of the queue the agents do not wait twice as long."""
    assert [reminders.is_due(KEY, X, second, second) for second in (0, 4, 5, 80)] == [False, False, True, True]
    reminders.announced(KEY, 80)
    assert [reminders.is_due(KEY, X, second, second) for second in (89, 90)] == [False, True]


def test_the_first_wait_begins_again_when_the_oldest_agent_was_claimed(reminders: Reminders) -> None:
    announced_at(reminders, X, 100, 120)
    assert announced_at(reminders, Y, 120, 131) == [125]
    assert announced_at(reminders, ("y", 3), 131, 140) == [136], "the same agent, ready again"


def test_agents_that_are_ready_when_a_worker_begins_to_sweep_wait_since_they_were_ready() -> None:
    """Otherwise nothing would be announced while the sweepers change."""
    assert not Reminders().is_due(KEY, X, 4.9, 100)
    assert Reminders().is_due(KEY, X, 5, 100)


def test_agents_that_are_ready_in_the_future_wait_from_the_first_sweep_on() -> None:
    """The server's clock was set back by ten minutes, and then another worker began to sweep."""
    reminders = Reminders(first_wait_s=5)
    assert [reminders.is_due(KEY, X, second - 700, second) for second in (100, 104, 105)] == [False, False, True]


def test_agents_of_a_job_that_was_paused_wait_since_it_was_resumed(reminders: Reminders) -> None:
    assert not reminders.is_due(KEY, X, 3_600, 100)
    assert reminders.is_due(KEY, X, 3_605, 105)


def test_agents_that_are_not_ready_any_more_are_forgotten(reminders: Reminders) -> None:
    reminders.is_due(KEY, X, 0, 100)
    reminders.announced(KEY, 100)
    reminders.sweep_ended([("another", "default")])
    assert announced_at(reminders, X, 101, 107) == [106]


def test_pools_and_jobs_wait_separately(reminders: Reminders) -> None:
    keys = [("job", "default"), ("job", "gpu"), ("other", "default")]
    for number, key in enumerate(keys):
        reminders.is_due(key, X, 0, 100 + number)
    assert [reminders.is_due(key, X, 5, 105) for key in keys] == [True, False, False]
