"""pause_resume, deliver and retry: a control takes effect atomically, once, and only in a permitted state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mirrorneuron.job import JobStatus
from mirrorneuron.store.protocol import ControlReply, DeadLetterDraft, JobEnd, JobRef, ReplyCode, new_token
from tests.scripts.machine.stage import (
    ANY_HEAVY,
    ANY_LIGHT,
    BATCH_OF_TWO,
    EXECUTOR,
    JOB,
    JOIN_OF_THREE,
    Kind,
    Stage,
    cancelled,
    completed,
    failed,
)

Stages = Callable[..., Stage]
TO = (JobStatus.PAUSED, JobStatus.RUNNING)


def move(one: Stage, to: JobStatus) -> ControlReply:
    return one.scripts.pause_resume(JOB.job_id, to, b'{"by":"ann"}')


def deliver(one: Stage, agent: str, name: str, dead: str = "") -> ControlReply:
    return one.scripts.deliver(JOB.job_id, agent, name, b'"outside"', dead)


def retry(one: Stage, start: str = "", *clear: tuple[str, int]) -> tuple[ControlReply, int]:
    job = JobRef(JOB.job_id, int(one.job("run")), JOB.digest)
    return one.scripts.retry(job, b"{}", ["a", "b", "x", "join", "batch"], start, clear)


def rows(moved: ControlReply) -> list[tuple[str, int, str]]:
    return [(row.pool, row.due, row.agent_id) for row in moved.waiting]


def test_a_paused_job_gives_no_claim_and_a_run_commits_without_claiming_more(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("b", b"2"))
    held = one.claim("a")
    assert move(one, JobStatus.PAUSED).word is ReplyCode.SETTLED
    assert one.claim("b").word is ReplyCode.PAUSED
    step = one.answer(held.claims[0], ("c", b"3"))
    reply = one.scripts.commit(JOB, held.token, [step], new_token(), ANY_LIGHT)
    assert (reply.word, reply.claims, reply.waiting, reply.idle) == (ReplyCode.COMMITTED, (), (), False)
    assert (one.mail("b"), one.mail("c"), one.claims()) == ([b"2"], [b"3"], {})
    assert [(row.pool, row.due, row.new) for row in move(one, JobStatus.RUNNING).waiting] == [("light", 2, 2)]


def test_asking_for_the_present_status_changes_nothing(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    for to in TO:
        move(one, to)
        before = one.everything()
        one.now += 1
        again = move(one, to)
        assert (again.word, again.status, one.everything()) == (ReplyCode.SETTLED, to, before)
    assert one.events()[-2:] == ["job_paused", "job_resumed"]
    entries = [fields for _, fields in one.redis.xrange(one.keys.events(JOB.job_id))][-2:]
    assert [(fields[b"a"], fields[b"p"]) for fields in entries] == [(b"", b'{"by":"ann"}')] * 2


@pytest.mark.parametrize("to", TO)
@pytest.mark.parametrize("end", [None, completed(), failed(), cancelled()])
def test_only_a_running_job_is_paused_and_only_a_paused_job_is_resumed(
    stage: Stages, to: JobStatus, end: JobEnd | None
) -> None:
    one = stage()
    one.create(("a", b"1"))
    if end:
        one.finish(end)
    before = one.everything()
    moved = move(one, to)
    expected = (ReplyCode.ENDED, end.status) if end else (ReplyCode.REFUSED, "pending")
    assert (moved.word, moved.status, moved.waiting) == (*expected, ())
    assert one.everything() == before


def test_a_pause_updates_the_job_and_raises_its_revision(stage: Stages) -> None:
    """A worker that saw the job idle before the pause must not end it after the pause."""
    one = stage(join=JOIN_OF_THREE).open(("join", b"1"))
    seen = one.revision
    one.now += 7
    move(one, JobStatus.PAUSED)
    assert one.job("updated_at") == str(one.now)
    assert one.scripts.settle(JOB, one.revision, completed()) is ReplyCode.MOVED
    move(one, JobStatus.RUNNING)
    assert one.scripts.settle(JOB, seen, completed()) is ReplyCode.MOVED


def test_a_flush_waits_for_the_end_of_a_pause(stage: Stages) -> None:
    one = stage(batch=BATCH_OF_TWO).open(("batch", b"1"))
    move(one, JobStatus.PAUSED)
    assert one.scripts.flush(JOB, one.revision, ["batch"]).word is ReplyCode.MOVED
    assert one.ready("default") == {}


def test_a_message_from_outside_raises_the_revision_and_ends_the_idleness(stage: Stages) -> None:
    """A worker that saw the job idle before the message came must not end the job."""
    one = stage(join=JOIN_OF_THREE).open(("join", b"1"))
    seen = one.revision
    one.scripts.settle(JOB, seen, None)
    one.now += 7
    assert deliver(one, "join", "id").word is ReplyCode.DELIVERED
    assert (one.job("idle_since"), one.job("updated_at")) == ("", str(one.now))
    assert one.scripts.settle(JOB, seen, completed()) is ReplyCode.MOVED


def test_the_reply_to_a_message_reports_the_agent_that_it_makes_ready(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(("join", b"1"))
    assert rows(deliver(one, "join", "first")) == []
    assert rows(deliver(one, "join", "second")) == [("light", 1, "join")]


def test_a_duplicate_message_is_recognized_by_its_agent_and_its_id(stage: Stages) -> None:
    one = stage().open()
    sent = [("a", "bc"), ("ab", "c"), ("a", "c"), ("a", "bc")]
    words = [deliver(one, agent, name).word for agent, name in sent]
    assert words == [ReplyCode.DELIVERED] * 3 + [ReplyCode.DUPLICATE]
    assert (len(one.mail("a")), len(one.redis.lrange(one.keys.mail(JOB.job_id, "ab"), 0, -1))) == (2, 1)


@pytest.mark.parametrize("end", [completed(), failed(), cancelled()])
def test_an_ended_job_refuses_a_message_and_keeps_the_dead_letter(stage: Stages, end: JobEnd) -> None:
    one = stage()
    entry = given_up(one)
    one.finish(end)
    before = one.everything()
    moved = deliver(one, "b", "id", entry)
    assert (moved.word, moved.status) == (ReplyCode.ENDED, end.status)
    assert one.everything() == before
    assert one.redis.xlen(one.keys.dead(JOB.job_id)) == 1


def given_up(one: Stage) -> str:
    """Open a job with one dead letter; returns its entry."""
    one.open(("a", b"1"))
    held = one.claim("a")
    step = replace(one.answer(held.claims[0]), dead=[DeadLetterDraft("m", "nobody", "why", b"{}")])
    one.scripts.commit(JOB, held.token, [step], new_token())
    ((entry, _),) = one.redis.xrange(one.keys.dead(JOB.job_id))
    return str(entry, "utf-8")


def test_a_dead_letter_is_replayed_once_however_often_it_is_asked_for(stage: Stages) -> None:
    one = stage()
    entry = given_up(one)
    words = [deliver(one, "b", name, entry).word for name in ("new", "new", "another")]
    assert words == [ReplyCode.DELIVERED, ReplyCode.DUPLICATE, ReplyCode.GONE]
    assert len(one.mail("b")) == 1
    assert one.redis.xlen(one.keys.dead(JOB.job_id)) == 0


def test_only_a_failed_or_cancelled_job_is_retried(stage: Stages) -> None:
    one = stage()
    one.create(("a", b"1"))
    for status in ("pending", "running", "paused", "completed"):
        if status == "running":
            one.scripts.claim(JOB, new_token(), ANY_LIGHT, opening=True)
        elif status == "paused":
            move(one, JobStatus.PAUSED)
        elif status == "completed":
            one.finish(completed())
        before = one.everything()
        moved, _ = retry(one, "a", ("a", 1))
        assert (moved.word, moved.status) == (ReplyCode.SETTLED if status == "running" else ReplyCode.REFUSED, status)
        assert one.everything() == before


def test_calls_of_an_earlier_run_are_refused_in_a_retried_job(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a", token="t")
    one.finish(cancelled())
    assert [run for _, run in (retry(one), retry(one))] == [2, 2]
    before = one.everything()
    assert one.scripts.commit(JOB, "t", [one.answer(held.claims[0])], new_token()).word is ReplyCode.STALE
    assert one.scripts.renew(JOB, "t", ["a"]) is ReplyCode.STALE
    assert one.claim("a").word is ReplyCode.STALE
    assert one.scripts.finish(JOB, failed(), ["a"]) is ReplyCode.STALE
    assert one.scripts.settle(JOB, one.revision, completed()) is ReplyCode.STALE
    assert one.everything() == before


def test_a_retry_resets_the_attempts_and_losses_of_an_agent(stage: Stages) -> None:
    """It failed after a loss and during a delay; after the retry it is ready at once."""
    one = stage(x=EXECUTOR).open(("x", b"1"))
    held = one.claim("x")
    step = replace(one.answer(held.claims[0]), consumed=0, attempts=2, delay_ms=60_000, error="e")
    one.scripts.commit(JOB, held.token, [step], new_token())
    one.redis.hset(one.keys.agent(JOB.job_id, "x"), "losses", 2)
    one.finish(failed())
    started = one.job("started_at")
    one.now += 5
    moved, _ = retry(one)
    assert rows(moved) == [("default", 1, "x")]
    assert one.ready("default") == {"x": one.now}
    assert [one.agent("x", name) for name in ("token", "attempts", "due", "error", "losses", "cut")] == [""] * 6
    assert one.job("started_at") == started
    assert one.events()[-3:] == ["job_recovery_started", "job_running", "executor_lease_requested"]


def test_a_retry_from_an_agent_clears_it_and_all_agents_downstream_and_gives_it_its_last_input(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(("a", b"1"), ("b", b"2"), ("join", b"3"), ("join", b"4"), ("join", b"5"))
    for name in ("a", "b", "join"):
        held = one.claim(name)
        step = one.answer(held.claims[0])
        threshold = 2 if name == "join" else None
        step = replace(
            step, consumed=1, state=b'{"s":1}', last=held.claims[0].mail[0], output=b"9", threshold=threshold
        )
        one.scripts.commit(JOB, held.token, [step], new_token())
    one.finish(failed())
    moved, _ = retry(one, "b", ("b", 1), ("join", 3))
    assert rows(moved) == [("light", 1, "b")]
    assert (one.mail("b"), one.mail("join")) == ([b"2"], [])
    kept = ("state", "output", "processed", "last")
    assert [one.agent("a", name) for name in kept] == ['{"s":1}', "9", "1", "1"]
    assert [one.agent("b", name) for name in kept] == ["", "", "", "2"]
    assert [one.agent("join", name) for name in (*kept, "threshold")] == ["", "", "", "3", "3"]
    cleared = [f for _, f in one.redis.xrange(one.keys.events(JOB.job_id)) if f[b"t"] == b"mail_cleared"]
    assert [(fields[b"a"], fields[b"p"]) for fields in cleared] == [(b"join", b'{"count":2}')]


@pytest.mark.parametrize(("kind", "again"), [(Kind(), 1), (EXECUTOR, 1), (BATCH_OF_TWO, 2)])
def test_a_retry_from_an_agent_whose_run_was_cut_off_gives_it_the_input_of_that_run(
    stage: Stages, kind: Kind, again: int
) -> None:
    """The rest of its mail is cleared and counted in the event."""
    one = stage(x=kind).open(("x", b"1"), ("x", b"2"), ("x", b"3"))
    one.claim("x")
    one.finish(cancelled())
    retry(one, "x", ("x", kind.threshold))
    assert one.mail("x") == [b"1", b"2", b"3"][:again]


def test_a_retry_from_an_agent_that_never_ran_gives_it_its_first_message(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("a", b"2"))
    one.finish(cancelled())
    retry(one, "a", ("a", 1))
    assert one.mail("a") == [b"1"]


def test_a_retry_from_an_agent_that_succeeded_gives_it_its_last_input_and_not_its_waiting_mail(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"), ("x", b"2"))
    held = one.claim("x")
    step = replace(one.answer(held.claims[0]), last=held.claims[0].mail[0])
    one.scripts.commit(JOB, held.token, [step], new_token())
    one.finish(cancelled())
    retry(one, "x", ("x", 1))
    assert one.mail("x") == [b"1"]


def test_the_next_run_of_the_job_forgets_that_a_run_was_cut_off(stage: Stages) -> None:
    """The last end of the job decides which input the agent is given again."""
    one = stage(x=EXECUTOR).open(("x", b"1"), ("x", b"2"))
    one.claim("x")
    one.finish(cancelled())
    retry(one)
    job = JOB._replace(run=2)
    held = one.scripts.claim(job, new_token(), ANY_HEAVY)
    step = replace(one.answer(held.claims[0]), last=held.claims[0].mail[0])
    one.scripts.commit(job, held.token, [step], new_token())
    one.scripts.finish(job, cancelled(), ["x"])
    retry(one, "x", ("x", 1))
    assert one.mail("x") == [b"1"]


def test_a_retry_raises_the_revision(stage: Stages) -> None:
    """The waits before a re-announcement start with the shortest one again."""
    one = stage().open(("a", b"1"))
    seen = one.revision
    one.finish(cancelled())
    retry(one)
    assert one.revision > seen
