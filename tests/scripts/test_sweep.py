"""sweep: frees claims of dead workers, reports agents to re-announce, and names jobs that have to end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirrorneuron.bundle.manifest import Policies, RecoveryMode
from mirrorneuron.job import JobStatus
from mirrorneuron.store.protocol import ReplyCode, Step, SweepReply, new_token, untouched
from tests.scripts.machine.stage import ANY_HEAVY, EXECUTOR, JOB, JOIN_OF_THREE, LEASE_MS, Stage, failed

Stages = Callable[..., Stage]


def sweep(one: Stage, *, after_gap: bool = False, set_back: bool = False) -> SweepReply:
    return one.sweep(after_gap=after_gap, set_back=set_back)


def reported(swept: SweepReply) -> list[tuple[str, int, str]]:
    """The agents that the sweep made ready."""
    return [(row.pool, row.new, row.agent_id) for row in swept.waiting if row.new]


def lose(one: Stage, agent: str) -> SweepReply:
    """Claim *agent* as a worker that dies then, while it runs no other one."""
    one.scripts.renew(JOB, one.claim(agent).token, [agent], alone=True)
    one.now += LEASE_MS
    return sweep(one)


def test_a_claim_is_freed_when_its_lease_expires_and_not_before(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"))
    held = one.claim("x")
    one.now += LEASE_MS - 1
    assert (reported(sweep(one)), set(one.claims())) == ([], {"x"})
    one.now += 1
    swept = sweep(one)
    assert (swept.word, reported(swept), one.claims()) == (ReplyCode.RUNNING, [("default", 1, "x")], {})
    assert one.events()[-3:] == ["agent_recovery_started", "executor_lease_requested", "agent_recovered"]
    assert one.scripts.renew(JOB, held.token, ["x"]) is ReplyCode.STALE
    assert one.scripts.commit(JOB, held.token, [one.answer(held.claims[0])], new_token()).word is ReplyCode.STALE
    assert one.claim("x").claims[0].mail == (b"1",)


def test_a_renewed_claim_is_not_freed(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a")
    one.now += LEASE_MS - 1
    one.scripts.renew(JOB, held.token, ["a"])
    one.now += LEASE_MS - 1
    sweep(one)
    assert set(one.claims()) == {"a"}


def test_a_slow_sweep_frees_no_claim_that_was_valid_when_it_began(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    one.claim("a")
    began = one.now
    one.now += LEASE_MS
    for now_ms, left in ((began, {"a"}), (one.now, set())):
        one.sweep(now_ms=now_ms)
        assert set(one.claims()) == left


def test_after_a_gap_in_sweeping_every_claim_gets_one_fresh_lease(stage: Stages) -> None:
    """Workers could not renew during the gap, so it does not count as a loss."""
    one = stage(x=EXECUTOR).open(("a", b"1"), ("x", b"2"))
    one.claim("a")
    one.claim("x")
    one.now += 10 * LEASE_MS
    assert reported(sweep(one, after_gap=True)) == []
    assert one.claims() == {"a": one.now + LEASE_MS, "x": one.now + LEASE_MS}
    assert one.agent("x", "losses") == ""
    one.now += LEASE_MS
    assert len(reported(sweep(one))) == 2
    assert (one.claims(), one.agent("x", "losses")) == ({}, "1")


def test_a_claim_that_was_not_renewed_since_the_last_gap_gets_no_other_fresh_lease(stage: Stages) -> None:
    """Its worker is dead. Where round trips are slow, each sweep may take itself for one after a gap."""
    one = stage(x=EXECUTOR, y=EXECUTOR).open(("x", b"1"), ("y", b"2"))
    token = one.claim("x").token
    one.claim("y")
    for ended in (set(), {"y"}, {"y"}):
        one.now += LEASE_MS - 1
        sweep(one, after_gap=True)
        one.now += 1
        assert one.scripts.renew(JOB, token, ["x"]) is ReplyCode.RENEWED
        assert {"x", "y"} - set(one.claims()) == ended


def test_after_the_clock_was_set_back_leases_and_delays_end_as_if_they_began_now(stage: Stages) -> None:
    one = stage(x=EXECUTOR, y=EXECUTOR, z=EXECUTOR).open(("x", b"1"), ("y", b"2"), ("z", b"3"))
    one.claim("x")
    one.scripts.commit(JOB, one.claim("y").token, [Step("y", attempts=1, delay_ms=700)], new_token())
    one.now -= 600_000
    assert one.scripts.claim(JOB, new_token(), ANY_HEAVY).claims == (), "nothing is due for ten minutes"
    sweep(one, set_back=True)
    assert one.claims() == {"x": one.now + 2 * LEASE_MS}
    assert one.ready("default") == {"y": one.now + 700, "z": one.now}
    before = one.everything()
    sweep(one, set_back=True)
    assert one.everything() == before


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_message_that_reaches_the_limit_of_losses_is_poisonous(stage: Stages, most: int) -> None:
    """Its claim stays but belongs to no worker: the job has to fail, and a worker that was only slow cannot commit."""
    one = stage(Policies(max_agent_restart_attempts=most), x=EXECUTOR).open(("x", b"1"))
    for _ in range(most - 1):
        assert reported(lose(one, "x")) == [("default", 1, "x")]
    held = one.claim("x")
    one.scripts.renew(JOB, held.token, ["x"], alone=True)
    one.now += LEASE_MS
    for _ in range(2):  # the sweeper may die before it acts on that
        swept = sweep(one)
        assert (swept.word, swept.agent_id, swept.losses, swept.waiting) == (ReplyCode.POISONED, "x", most, ())
        assert one.scripts.renew(JOB, held.token, ["x"]) is ReplyCode.STALE
        assert one.scripts.commit(JOB, held.token, [one.answer(held.claims[0])], new_token()).word is ReplyCode.STALE
    assert one.scripts.claim(JOB, new_token(), ANY_HEAVY).claims == ()


def test_a_commit_resets_the_losses(stage: Stages) -> None:
    one = stage(Policies(max_agent_restart_attempts=2), x=EXECUTOR).open(("x", b"1"), ("x", b"2"))
    assert lose(one, "x").word is ReplyCode.RUNNING
    one.run("x")
    assert lose(one, "x").word is ReplyCode.RUNNING


def test_after_its_first_loss_only_a_run_that_was_alone_counts_fully(stage: Stages) -> None:
    """Its worker may have died of another message. Beside others, three losses count like one."""
    one = stage(Policies(max_agent_restart_attempts=3), x=EXECUTOR).open(("x", b"1"))
    for losses in ("1", "1", "1", "2", "2", "2"):
        one.claim("x")
        one.now += LEASE_MS
        assert sweep(one).word is ReplyCode.RUNNING
        assert one.agent("x", "losses") == losses
    one.claim("x")
    one.now += LEASE_MS
    assert sweep(one).word is ReplyCode.POISONED


def test_a_run_that_is_given_back_is_still_suspected(stage: Stages) -> None:
    """It waited for its slots, or its node was short of something: it proved nothing."""
    one = stage(x=EXECUTOR).open(("x", b"1"))
    lose(one, "x")
    held = one.claim("x")
    one.scripts.commit(JOB, held.token, [untouched(held.claims[0])], new_token())
    assert [claim.losses for claim in one.claim("x").claims] == [1]


def test_a_claim_tells_how_many_workers_died_of_its_message(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"))
    assert [claim.losses for claim in one.claim("x", token="t").claims] == [0]
    one.now += LEASE_MS
    sweep(one)
    assert [claim.losses for claim in one.claim("x").claims] == [1]


@pytest.mark.parametrize("agent", ["a", "join"])
def test_each_loss_of_a_light_agent_counts(stage: Stages, agent: str) -> None:
    """Also of one that is not plain, whose pool is in its record."""
    one = stage(Policies(max_agent_restart_attempts=2), join=JOIN_OF_THREE).open(*[(agent, b"1")] * 3)
    one.claim(agent)
    one.now += LEASE_MS
    assert sweep(one).word is ReplyCode.RUNNING
    one.claim(agent)
    one.now += LEASE_MS
    assert sweep(one).word is ReplyCode.POISONED


@pytest.mark.parametrize("way", ["renew", "commit"])
def test_a_loss_does_not_count_if_the_worker_turns_out_to_live(stage: Stages, way: str) -> None:
    """It was frozen, or its connection was dead: only a process that died is a reason to suspect the message."""
    one = stage(Policies(max_agent_restart_attempts=2), x=EXECUTOR).open(("x", b"1"))
    for _ in range(3):
        held = one.claim("x")
        one.now += LEASE_MS
        assert sweep(one).word is ReplyCode.RUNNING
        assert one.agent("x", "losses") == "1"
        for _ in range(2):  # its loss is taken back once
            if way == "renew":
                assert one.scripts.renew(JOB, held.token, ["x"]) is ReplyCode.STALE
            else:
                step = one.answer(held.claims[0])
                assert one.scripts.commit(JOB, held.token, [step], new_token()).word is ReplyCode.STALE
            assert one.agent("x", "losses") == "0"


def test_only_the_loss_of_a_worker_that_lives_is_taken_back(stage: Stages) -> None:
    one = stage(Policies(max_agent_restart_attempts=9), x=EXECUTOR).open(("x", b"1"))
    tokens = []
    for _ in range(3):
        tokens.append(one.claim("x").token)
        one.scripts.renew(JOB, tokens[-1], ["x"], alone=True)
        one.now += LEASE_MS
        sweep(one)
    for token, losses in ((tokens[1], "2"), (tokens[1], "2"), (new_token(), "2"), (tokens[0], "1")):
        one.scripts.renew(JOB, token, ["x"])
        assert one.agent("x", "losses") == losses


def test_a_worker_that_was_lost_before_the_last_commit_takes_no_later_loss_back(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"), ("x", b"2"))
    old = one.claim("x").token
    one.now += LEASE_MS
    sweep(one)
    one.run("x")
    lose(one, "x")
    one.scripts.renew(JOB, old, ["x"])
    assert one.agent("x", "losses") == "1"


def test_a_lost_worker_that_comes_back_after_a_later_commit_changes_nothing(stage: Stages) -> None:
    """Otherwise the agent would count as interrupted, and a retry from it would skip its last input."""
    one = stage(x=EXECUTOR).open(("x", b"1"), ("x", b"2"))
    old = one.claim("x").token
    one.now += LEASE_MS
    sweep(one)
    one.run("x")
    one.scripts.renew(JOB, old, ["x"])
    assert one.agent("x", "losses") == ""


def test_a_claim_without_mail_does_not_count_as_a_loss(stage: Stages) -> None:
    one = stage(Policies(max_agent_restart_attempts=1)).open(("a", b"1"))
    held = one.claim("a", "b")
    one.scripts.renew(JOB, held.token, ["a"])
    one.redis.zadd(one.keys.claims(JOB.job_id), {"b": one.now})
    assert sweep(one).word is ReplyCode.RUNNING
    assert (set(one.claims()), one.agent("b", "losses")) == ({"a"}, "0")


def test_a_policy_of_no_restarts_does_not_fail_an_agent_without_mail(stage: Stages) -> None:
    one = stage(Policies(max_agent_restart_attempts=0)).open(("a", b"1"))
    one.claim("a", "b")
    one.redis.zadd(one.keys.claims(JOB.job_id), {"b": one.now})
    assert sweep(one).word is ReplyCode.RUNNING
    assert set(one.claims()) == {"a"}


@pytest.mark.parametrize("mode", RecoveryMode)
def test_only_manual_recovery_pauses_the_job_and_names_the_agent(stage: Stages, mode: RecoveryMode) -> None:
    one = stage(Policies(recovery_mode=mode), x=EXECUTOR, y=EXECUTOR).open(("x", b"1"), ("y", b"2"))
    one.claim("y")
    paused = mode is RecoveryMode.MANUAL_RECOVER
    assert reported(lose(one, "x")) == ([] if paused else [("default", 2, single_agent(one))])
    assert one.job("status") == ("paused" if paused else "running")
    events = [fields for _, fields in one.redis.xrange(one.keys.events(JOB.job_id))]
    names = [fields[b"a"] for fields in events if fields[b"t"] == b"job_paused"]
    assert len(names) == paused  # once, although two claims were lost
    assert set(names) <= {b"x", b"y"}
    if paused:
        assert one.claim("x").word is ReplyCode.PAUSED
        resumed = one.scripts.pause_resume(JOB.job_id, JobStatus.RUNNING, b"{}")
        assert [(row.pool, row.due) for row in resumed.waiting] == [("default", 2)]


def single_agent(one: Stage) -> str:
    """A row names its agent only if it is the only one that is ready."""
    return "" if len(one.ready("default")) > 1 else next(iter(one.ready("default")))


def test_the_agent_that_has_been_ready_for_longest_is_named(stage: Stages) -> None:
    """However much mail it and other agents get meanwhile: its announcement may be lost."""
    one = stage(x=EXECUTOR, y=EXECUTOR).open(("x", b"1"))
    begun = one.now
    for number in range(3):
        one.now += 1_000
        one.scripts.deliver(JOB.job_id, "x" if number else "y", f"id{number}", b"2")
        (row,) = sweep(one).waiting
        assert (row.pool, row.due, row.oldest, row.ready_ms) == ("default", 2, "x", begun)
    one.run("x")
    assert [(row.oldest, row.ready_ms) for row in sweep(one).waiting] == [("y", begun + 1_000)]


def test_a_pending_job_is_reported_with_the_time_of_its_submission(stage: Stages) -> None:
    one = stage()
    one.create(("a", b"1"))
    begun = one.now
    one.now += 20_000
    swept = sweep(one)
    assert (swept.word, swept.waiting, swept.since_ms) == (ReplyCode.OPEN, (), begun)


def test_an_agent_that_is_not_due_is_not_waiting(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"))
    held = one.claim("x")
    one.scripts.commit(JOB, held.token, [Step("x", attempts=1, delay_ms=50_000)], new_token())
    assert sweep(one).waiting == ()
    one.now += 50_000
    assert [(row.oldest, row.new) for row in sweep(one).waiting] == [("x", 0)]


def test_a_sweep_reports_the_agents_that_it_has_freed_and_not_all_ready_ones(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("a", b"1"), ("x", b"2"))
    assert reported(lose(one, "a")) == [("light", 1, "a")]


def test_an_idle_job_is_reported_until_it_is_settled(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(("join", b"1"))
    for _ in range(2):
        swept = sweep(one)
        assert (swept.word, swept.revision) == (ReplyCode.IDLE, one.revision)
    one.scripts.settle(JOB, one.revision, None)
    assert sweep(one).word is ReplyCode.RUNNING


@pytest.mark.parametrize("status", ["pending", "running", "paused"])
def test_a_job_is_late_at_the_age_of_its_timeout_pauses_included(stage: Stages, status: str) -> None:
    one = stage(Policies(job_timeout_ms=1_000))
    one.create(("a", b"1"))
    if status != "pending":
        one.scripts.claim(JOB, new_token(), (("light", 0),), opening=True)
    if status == "paused":
        one.scripts.pause_resume(JOB.job_id, JobStatus.PAUSED, b"{}")
    one.now += 999
    assert sweep(one).word is (ReplyCode.OPEN if status == "pending" else ReplyCode.RUNNING)
    one.now += 1
    assert sweep(one).word is ReplyCode.LATE


def test_a_job_is_overdue_after_its_idle_timeout_and_a_pause_does_not_count(stage: Stages) -> None:
    one = stage(Policies(idle_timeout_ms=1_000), join=JOIN_OF_THREE).open(("join", b"1"))
    one.scripts.settle(JOB, one.revision, None)
    one.now += 999
    assert sweep(one).word is ReplyCode.RUNNING
    one.scripts.pause_resume(JOB.job_id, JobStatus.PAUSED, b"{}")
    one.now += 1
    assert sweep(one).word is ReplyCode.RUNNING
    one.scripts.pause_resume(JOB.job_id, JobStatus.RUNNING, b"{}")
    assert sweep(one).word is ReplyCode.IDLE
    one.scripts.settle(JOB, one.revision, None)
    one.now += 1_000
    assert sweep(one).word is ReplyCode.OVERDUE


def test_an_ended_or_missing_job_is_only_reported(stage: Stages) -> None:
    one = stage(Policies(job_timeout_ms=1))
    assert (sweep(one).word, sweep(one).job) == (ReplyCode.MISSING, None)
    one.open(("a", b"1"))
    one.finish(failed())
    before = one.everything()
    one.now += 10
    assert sweep(one, after_gap=True).word is ReplyCode.ENDED
    assert one.everything() == before
