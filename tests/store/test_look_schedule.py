"""The moments of the next looks: who may set which, and what a race of two writers leaves."""

from __future__ import annotations

import pytest

from mirrorneuron.bundle.manifest import Policies
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import ASKED
from mirrorneuron.store.look_schedule import FIRST_LOOK_MS, DueJob, LookSchedule, first_look_ms
from tests.support.store import Jobs


@pytest.fixture
def looks(store: Store) -> LookSchedule:
    return store.index.looks


def moments(store: Store) -> dict[str, int]:
    """The moments in the index, without its marks."""
    return {job.job_id: job.due_ms for job in store.index.looks.all_jobs()}


def due_at(store: Store, job_id: str, at_ms: int) -> None:
    store.client.execute_command(*store.index.looks.entry(job_id, at_ms))


def test_a_moment_is_brought_forward_and_never_put_off(store: Store) -> None:
    for at_ms, found in ((500, 500), (900, 500), (200, 200)):
        due_at(store, "j", at_ms)
        assert moments(store) == {"j": found}


def test_the_jobs_that_are_due_come_in_the_order_of_their_moments(store: Store, looks: LookSchedule) -> None:
    for name, at_ms in (("b", 20), ("a", 10), ("later", 31), ("c", 30)):
        due_at(store, name, at_ms)
    assert looks.agenda(30).due == [("a", 10), ("b", 20), ("c", 30)]


def test_the_next_moment_replaces_the_one_that_was_read(store: Store, looks: LookSchedule) -> None:
    due_at(store, "j", 10)
    looks.set_next([(DueJob("j", 10), 5_000)])
    assert moments(store) == {"j": 5_000}


@pytest.mark.parametrize("moved_to", [0, 9, 11, 4_000])
def test_a_slow_sweeper_does_not_replace_the_moment_that_another_one_has_set(
    store: Store, looks: LookSchedule, moved_to: int
) -> None:
    due_at(store, "j", 10)
    looks.set_next([(DueJob("j", 10), moved_to)])
    looks.set_next([(DueJob("j", 10), 5_000)])
    assert moments(store) == {"j": moved_to}


def test_a_job_that_has_ended_meanwhile_is_not_put_back(store: Store, looks: LookSchedule, jobs: Jobs) -> None:
    jobs.submit("j")
    due = looks.all_jobs()
    jobs.end("j")
    store.index.mark_ended(["j"])
    looks.set_next([(job, 5_000) for job in due])
    assert moments(store) == {}


def test_jobs_that_are_asked_for_become_due_and_are_not_put_off(store: Store, looks: LookSchedule) -> None:
    due_at(store, "early", 10)
    store.client.zadd(store.keys.due, {ASKED + "early": 0, ASKED + "new": 0})
    asked = looks.agenda(5).asked
    looks.take_over(asked, 20)
    assert (moments(store), looks.agenda(5).asked) == ({"early": 10, "new": 20}, [])


def test_a_job_that_is_asked_for_after_the_agenda_was_read_stays_asked_for(store: Store, looks: LookSchedule) -> None:
    asked = looks.agenda(5).asked
    store.client.zadd(store.keys.due, {ASKED + "j": 0})
    looks.take_over(asked, 20)
    assert looks.agenda(5).asked == ["j"]


def test_live_jobs_without_a_moment_are_counted_and_adopted(store: Store, looks: LookSchedule, jobs: Jobs) -> None:
    for name in "abc":
        jobs.submit(name)
    store.client.zrem(store.keys.due, "a", "b")
    assert looks.missing() == 2
    looks.adopt(7)
    assert (looks.agenda(7), looks.missing()) == (([], [("a", 7), ("b", 7)]), 0)


def test_a_schedule_is_quiet_until_a_job_is_due_or_asked_for(store: Store, looks: LookSchedule) -> None:
    assert looks.is_quiet(10)
    due_at(store, "j", 11)
    assert (looks.is_quiet(10), looks.is_quiet(11)) == (True, False)
    store.client.zadd(store.keys.due, {ASKED + "k": 0})
    assert not looks.is_quiet(10)


@pytest.mark.parametrize(
    ("policies", "wait_ms"),
    [
        (Policies(), FIRST_LOOK_MS),
        (Policies(job_timeout_ms=900), 900),
        (Policies(idle_timeout_ms=800, job_timeout_ms=900), 800),
        (Policies(idle_timeout_ms=60_000), FIRST_LOOK_MS),
    ],
)
def test_a_job_is_looked_at_first_when_it_may_have_timed_out(policies: Policies, wait_ms: int) -> None:
    assert first_look_ms(policies, 6_000) == wait_ms


def test_a_claim_that_is_lost_right_after_the_submission_is_seen_within_two_leases() -> None:
    """Also if the lease is short: the first look does not wait as long as a lost announcement may."""
    assert first_look_ms(Policies(), 2_000) == 3_000
