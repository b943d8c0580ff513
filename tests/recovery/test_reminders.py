"""When agents that stay ready are announced again."""

from __future__ import annotations

import pytest

from workers.recovery.reminders import Ready, Reminders

KEY = ("job", "default")
X: Ready = ("x", 1)
Y: Ready = ("y", 2)


@pytest.fixture
def reminders() -> Reminders:
    return Reminders(first_wait_s=5, longest_wait_s=15)


def announced_at(reminders: Reminders, oldest: Ready, begin: int, end: int) -> list[int]:
    """The seconds at which agents that nobody claims are announced."""
    made = []
    for second in range(begin, end):
        if reminders.is_due(KEY, oldest, second - begin, second):
            reminders.announced(KEY, second)
            made.append(second)
        reminders.looked_at("job", ["default"], second)
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


def test_agents_wait_since_they_were_ready() -> None:
    """And not since the first look at them, which may come later, or after another sweeper's."""
    assert not Reminders().is_due(KEY, X, 4.9, 100)
    assert Reminders().is_due(KEY, X, 5, 100)


def test_agents_that_are_ready_in_the_future_wait_from_the_first_sweep_on() -> None:
    """The server's clock was set back by ten minutes, and then another worker began to sweep."""
    reminders = Reminders(first_wait_s=5)
    assert [reminders.is_due(KEY, X, second - 700, second) for second in (100, 104, 105)] == [False, False, True]


def test_agents_that_are_not_ready_any_more_are_forgotten(reminders: Reminders) -> None:
    reminders.is_due(KEY, X, 0, 100)
    reminders.announced(KEY, 100)
    reminders.looked_at("job", ["another"], 101)
    assert announced_at(reminders, X, 101, 107) == [106]


def test_pools_and_jobs_wait_separately(reminders: Reminders) -> None:
    keys = [("job", "default"), ("job", "gpu"), ("other", "default")]
    for number, key in enumerate(keys):
        reminders.is_due(key, X, 0, 100 + number)
    assert [reminders.is_due(key, X, 5, 105) for key in keys] == [True, False, False]


def test_the_next_reminder_is_the_earliest_of_the_job(reminders: Reminders) -> None:
    assert reminders.next_s("job", 100) is None
    reminders.is_due(KEY, X, 1, 100)
    reminders.is_due(("job", "gpu"), Y, 3, 100)
    assert reminders.next_s("job", 100) == 2
    reminders.announced(("job", "gpu"), 100)
    assert reminders.next_s("job", 100) == 4


def test_agents_that_could_not_be_announced_are_due_again_after_the_first_wait(reminders: Reminders) -> None:
    """The queue is long. A look at each job in each sweep would cost more the longer it gets."""
    assert reminders.is_due(KEY, X, 60, 100)
    assert reminders.next_s("job", 100) == 5


def test_jobs_that_wait_for_a_pool_are_counted(reminders: Reminders) -> None:
    for job_id, pool in (("a", "default"), ("a", "gpu"), ("b", "default"), ("c", "")):
        reminders.is_due((job_id, pool), X, 0, 100)
        reminders.looked_at(job_id, ["default", "gpu", ""], 100)
    assert [reminders.waiting(pool) for pool in ("default", "gpu", "light")] == [2, 1, 0]
    reminders.announced_in(("c", ""), "light")
    assert reminders.waiting("light") == 1


def test_jobs_that_are_not_looked_at_any_more_are_forgotten(reminders: Reminders) -> None:
    for second, job_id in enumerate("abab"):
        reminders.is_due((job_id, "default"), X, 0, second)
        reminders.looked_at(job_id, ["default"], second)
    reminders.forget(before=3)
    assert [reminders.knows(job_id) for job_id in "ab"] == [False, True]
