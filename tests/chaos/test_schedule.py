"""The schedule is a pure function of seed, jobs and minutes."""

from __future__ import annotations

import pytest

from mirrorneuron.chaos.schedule import EVERY_S, WEIGHTS, Kind, plan


def test_the_same_seed_gives_the_same_schedule_in_every_version():
    """Pinned: a reported seed must give the same schedule everywhere."""
    planned = plan(1, 12, 0.1)
    assert planned == plan(1, 12, 0.1)
    assert [str(strike) for strike in planned.strikes] == [
        "0.3 s slow 492",
        "0.5 s worker 488",
        "0.9 s cut 24",
        "1.1 s feed 352",
        "1.2 s hang 326",
        "1.8 s clock 770",
        "2.1 s server 510",
        "2.7 s half_open 459",
        "3.1 s refuse 4",
        "3.1 s command 416",
        "3.7 s module 822",
        "3.9 s client 273",
        "4.1 s travel 270",
        "4.5 s freeze 471",
        "5.5 s node 698",
        "5.7 s child 826",
    ]
    assert planned.due_s == (0.425, 0.425, 0.425, 1.463, 1.463, 2.49, 2.49, 2.49, 3.931, 3.931, 5.018, 5.018)


def test_another_seed_or_size_gives_another_schedule():
    schedules = [plan(1, 12, 0.1), plan(2, 12, 0.1), plan(1, 13, 0.1), plan(1, 12, 0.2)]
    assert len({planned.strikes for planned in schedules}) == len(schedules)


@pytest.mark.parametrize("minutes", [0.02, 0.1, 2])
@pytest.mark.parametrize("jobs", [1, 12, 200])
def test_every_kind_occurs_in_order_of_time_and_before_the_end(jobs, minutes):
    planned = plan(3, jobs, minutes)
    times = [strike.at_s for strike in planned.strikes]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= 60 * minutes
    assert {strike.kind for strike in planned.strikes} == set(Kind)
    assert all(0 <= strike.which < 1_000 for strike in planned.strikes)
    assert len(times) == max(len(Kind), round(60 * minutes / EVERY_S))


def test_kinds_occur_in_proportion_to_their_weights():
    found = [strike.kind for strike in plan(4, 1_000, 60).strikes]
    share = len(found) / sum(WEIGHTS.values())
    assert all(abs(found.count(kind) - weight * share) <= weight + 1 for kind, weight in WEIGHTS.items())


def test_kinds_without_a_weight_do_not_occur():
    planned = plan(5, 10, 1, {Kind.WORKER: 1})
    assert {strike.kind for strike in planned.strikes} == {Kind.WORKER}


@pytest.mark.parametrize("jobs", [1, 12, 200])
def test_each_job_is_due_before_the_end_and_some_at_the_same_time(jobs):
    planned = plan(6, jobs, 0.5)
    assert len(planned.due_s) == jobs
    assert list(planned.due_s) == sorted(planned.due_s)
    assert planned.due_s[-1] < 30
    assert jobs < 30 or len(set(planned.due_s)) < jobs


@pytest.mark.parametrize("kind", [Kind.CLIENT, Kind.COMMAND, Kind.TRAVEL])
def test_a_blow_that_needs_submissions_comes_before_the_last_one(kind: Kind):
    planned = plan(7, 50, 1)
    hits = [strike.at_s for strike in planned.strikes if strike.kind is kind]
    assert max(hits) <= planned.due_s[-1]


def test_a_schedule_without_a_kind_keeps_the_other_strikes():
    planned = plan(8, 50, 1)
    less = planned.without(Kind.CLOCK)
    assert (
        less.strikes == tuple(strike for strike in planned.strikes if strike.kind is not Kind.CLOCK) != planned.strikes
    )
    assert (planned.left_out, less.left_out) == ((), (Kind.CLOCK,))
    assert less.due_s == planned.due_s
