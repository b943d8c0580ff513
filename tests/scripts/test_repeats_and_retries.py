"""Calls repeated at a bad moment, and retries after a run was cut off. The state machine found these cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirrorneuron.bundle.manifest import Policies
from mirrorneuron.job import JobStatus
from mirrorneuron.store.protocol import ControlReply, JobRef, ReplyCode, SweepReply, new_token
from tests.scripts.machine.stage import EXECUTOR, JOB, LEASE_MS, Kind, Stage, cancelled, failed

Stages = Callable[..., Stage]


def sweep(one: Stage) -> SweepReply:
    return one.sweep()


def retry(one: Stage, start: str = "") -> ControlReply:
    clear = [(start, "")] if start else []
    run = JobRef(JOB.job_id, int(one.job("run")), JOB.digest)
    return one.scripts.retry(run, b"{}", ["a", "b", "x"], start, clear)[0]


@pytest.mark.parametrize("before", [0, 1])
def test_a_retry_from_an_agent_with_a_poison_message_gives_it_that_message(stage: Stages, before: int) -> None:
    """Its mailbox is cleared; if the message were lost with it, the job might complete without it."""
    one = stage(Policies(max_agent_restart_attempts=0), x=EXECUTOR)
    one.open(*(("x", b"%d" % n) for n in range(before + 1)))
    if before:
        held = one.claim("x")
        step = one.answer(held.claims[0])
        step.last = held.claims[0].mail[0]
        one.scripts.commit(JOB, held.token, [step], new_token())
    one.claim("x")
    one.now += LEASE_MS
    assert sweep(one).word is ReplyCode.POISONED
    one.finish(failed())
    retry(one, "x")
    assert one.mail("x") == [b"%d" % before]


@pytest.mark.parametrize("kind", [Kind(), EXECUTOR])
def test_a_retry_from_an_agent_whose_first_run_was_cancelled_gives_it_the_same_input(stage: Stages, kind: Kind) -> None:
    one = stage(x=kind).open(("x", b"1"))
    one.claim("x")
    one.finish(cancelled())
    retry(one, "x")
    assert one.mail("x") == [b"1"]


def test_a_claim_repeated_while_the_job_is_paused_still_returns_what_it_holds(stage: Stages) -> None:
    """Otherwise the claim is not renewed and counts as a loss; with `manual_recover` the job is paused once more."""
    one = stage().open(("a", b"1"))
    one.claim("a", token="t")
    one.scripts.pause_resume(JOB.job_id, JobStatus.PAUSED, b"{}")
    again = one.claim("a", token="t")
    assert (again.word, [claim.mail for claim in again.claims]) == (ReplyCode.CLAIMED, [(b"1",)])


@pytest.mark.parametrize("way", ["resume", "retry", "deliver"])
def test_a_repeated_control_reports_the_ready_agents_again(stage: Stages, way: str) -> None:
    """The first reply was lost. Otherwise the agents wait for the sweeper, which takes some seconds."""
    one = stage(x=EXECUTOR).open()
    calls = {
        "resume": lambda: one.scripts.pause_resume(JOB.job_id, JobStatus.RUNNING, b"{}"),
        "retry": lambda: retry(one),
        "deliver": lambda: one.scripts.deliver(JOB.job_id, "x", "id", b"1"),
    }
    if way != "deliver":
        calls["deliver"]()
        one.scripts.pause_resume(JOB.job_id, JobStatus.PAUSED, b"{}")
    if way == "retry":
        one.finish(failed())
    first, again = calls[way](), calls[way]()
    assert [(row.agent_id, row.due, row.new) for row in first.waiting] == [("x", 1, 1)]
    assert again.waiting == first.waiting


def test_a_job_that_was_cancelled_before_it_was_opened_has_started_once_it_is_retried(stage: Stages) -> None:
    one = stage()
    one.create(("a", b"1"))
    one.finish(cancelled())
    retry(one)
    assert (one.job("status"), one.job("started_at")) == ("running", str(one.now))


def test_the_newest_ids_of_messages_from_outside_are_remembered(stage: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number is bounded, and the oldest is evicted first."""
    monkeypatch.setattr("mirrorneuron.store.scripts.DELIVERED_KEPT", 2)
    one = stage().open()
    words = []
    for name in ("first", "second", "third", "third", "second", "first"):
        one.now += 1
        words.append(one.scripts.deliver(JOB.job_id, "a", name, b"1").word)
    assert words == [ReplyCode.DELIVERED] * 3 + [ReplyCode.DUPLICATE] * 2 + [ReplyCode.DELIVERED]
    assert len(one.mail("a")) == 4
    assert one.redis.zcard(f"{one.keys.job(JOB.job_id)}:delivered") == 2


def test_a_repeated_call_returns_the_claims_of_its_own_token_only(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("b", b"2"))
    one.claim("a", token="t")
    one.claim("b", token="u")
    assert [claim.agent_id for claim in one.claim("a", token="t").claims] == ["a"]
    assert (one.agent("a", "token"), one.agent("b", "token")) == ("t", "u")


def test_a_retried_job_has_its_whole_timeout_again_and_no_result(stage: Stages) -> None:
    """Its age counts from the retry, not from its submission."""
    one = stage(Policies(job_timeout_ms=10_000)).open(("a", b"1"))
    one.now += 10_000
    assert sweep(one).word is ReplyCode.LATE
    one.finish(failed())
    retry(one)
    assert [one.job(field) for field in ("result", "finished_at")] == ["", ""]
    one.now += 9_999
    assert sweep(one).word is not ReplyCode.LATE
    one.now += 1
    assert sweep(one).word is ReplyCode.LATE


def test_a_slow_sweep_after_a_gap_does_not_shorten_a_lease(stage: Stages) -> None:
    """Its sweeper was blocked; meanwhile the worker has renewed its claim, and another sweeper comes next."""
    one = stage(x=EXECUTOR).open(("x", b"1"))
    token, begun = one.claim("x").token, one.now
    one.now += 2 * LEASE_MS
    assert one.scripts.renew(JOB, token, ["x"]) is ReplyCode.RENEWED
    one.sweep(now_ms=begun, after_gap=True)
    assert one.claims() == {"x": one.now + LEASE_MS}
