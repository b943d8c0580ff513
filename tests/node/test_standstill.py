"""Which task stands still: one that is at the same step of the worker's own for many looks, while the store answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from workers import standstill
from workers.standstill import PATIENCE, Standstill


class Tasks:
    """The tasks of this thread."""

    def __init__(self) -> None:
        self.store_answers = True
        self.here = threading.get_ident()
        self.watch = Standstill(lambda: self.store_answers)

    def looks(self, count: int) -> list[int | None]:
        return [self.watch.look() for _ in range(count)]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tasks]:
    monkeypatch.setattr(standstill, "INTERVAL_S", 1e6)  # the thread never looks: the test does
    found = Tasks()
    found.watch.begin()
    yield found
    found.watch.over()


QUIET = [None] * PATIENCE


def test_a_step_that_lasts_for_many_looks_is_a_standstill(tasks: Tasks) -> None:
    assert tasks.looks(PATIENCE + 1) == [*QUIET, tasks.here]


def test_a_task_that_gets_on_does_not_stand_still(tasks: Tasks) -> None:
    for _ in range(3):
        assert tasks.looks(PATIENCE) == QUIET
        tasks.watch.next_step()
    tasks.watch.over()
    tasks.watch.begin()
    assert tasks.looks(PATIENCE) == QUIET


def test_code_of_the_bundle_may_take_as_long_as_it_likes(tasks: Tasks) -> None:
    with tasks.watch.elsewhere():
        assert not any(tasks.looks(3 * PATIENCE))
    assert tasks.looks(PATIENCE + 1) == [*QUIET, tasks.here]


def test_a_store_that_is_away_explains_it(tasks: Tasks) -> None:
    tasks.looks(PATIENCE)
    tasks.store_answers = False
    assert not any(tasks.looks(3 * PATIENCE))
    tasks.store_answers = True
    assert not any(tasks.looks(PATIENCE - 1))
    assert tasks.here in tasks.looks(2)


def test_without_a_task_nothing_stands_still(tasks: Tasks) -> None:
    tasks.watch.over()
    tasks.watch.next_step()
    with tasks.watch.elsewhere():
        pass
    assert not any(tasks.looks(3 * PATIENCE))
