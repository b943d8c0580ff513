"""renew, flush, settle and finish: how a claim is kept valid and how a job ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mirrorneuron.message import decode
from mirrorneuron.store.keys import result_channel
from mirrorneuron.store.protocol import DeadLetterDraft, JobEnd, JobRef, Reply, ReplyCode, new_token
from tests.scripts.machine.stage import (
    AGENTS,
    ANY_LIGHT,
    BATCH_OF_TWO,
    EXECUTOR,
    JOB,
    JOIN_OF_THREE,
    KEEP_S,
    LEASE_MS,
    Stage,
    cancelled,
    completed,
    failed,
    rows,
)

Stages = Callable[..., Stage]
ANOTHER_RUN = JobRef(JOB.job_id, 2, JOB.digest)
NO_JOB = JobRef("no-job", 1, JOB.digest)


def test_renewing_gives_all_claims_of_a_token_a_new_lease(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("b", b"2"), ("c", b"3"))
    held = one.scripts.claim(JOB, new_token(), (("light", 2),))
    one.claim("c")
    one.now += 2_000
    assert one.scripts.renew(JOB, held.token, ["a", "b"]) is ReplyCode.RENEWED
    assert one.claims() == {"a": one.now + LEASE_MS, "b": one.now + LEASE_MS, "c": one.now - 2_000 + LEASE_MS}


def test_renewing_with_an_agent_that_is_no_longer_claimed_renews_nothing(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("b", b"2"))
    held, _ = one.claim("a"), one.claim("b")
    before = one.everything()
    one.now += 1
    assert one.scripts.renew(JOB, held.token, ["a", "b"]) is ReplyCode.STALE
    assert one.scripts.renew(JOB, new_token(), ["a"]) is ReplyCode.STALE
    assert one.scripts.renew(ANOTHER_RUN, held.token, ["a"]) is ReplyCode.STALE
    assert one.everything() == before


def test_renewing_does_not_restore_a_claim_that_was_committed(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a")
    one.scripts.commit(JOB, held.token, [one.answer(held.claims[0])], new_token())
    assert one.scripts.renew(JOB, held.token, ["a"]) is ReplyCode.STALE
    assert one.claims() == {}


def test_a_flush_makes_a_part_filled_batch_ready(stage: Stages) -> None:
    one = stage(batch=BATCH_OF_TWO).open(("batch", b"1"))
    reply = one.scripts.flush(JOB, one.revision, ["batch"])
    assert (reply.word, rows(reply)) == (ReplyCode.FLUSHED, {"default": (1, 1, "batch")})
    assert one.claim("batch").claims[0].mail == (b"1",)


def test_a_flush_ignores_empty_mailboxes(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE, batch=BATCH_OF_TWO).open(("join", b"1"))
    before = one.everything()
    reply = one.scripts.flush(JOB, one.revision, ["batch"])
    assert (reply.word, rows(reply)) == (ReplyCode.FLUSHED, {})
    assert one.everything() == before


def test_a_repeated_flush_reports_the_same_agents_again(stage: Stages) -> None:
    one = stage(batch=BATCH_OF_TWO).open(("batch", b"1"))
    first, again = (rows(one.scripts.flush(JOB, one.revision, ["batch"])) for _ in range(2))
    assert first == again == {"default": (1, 1, "batch")}


def test_a_flush_at_an_old_revision_changes_nothing(stage: Stages) -> None:
    one = stage(batch=BATCH_OF_TWO).open(("batch", b"1"))
    before = one.everything()
    assert one.scripts.flush(JOB, one.revision + 1, ["batch"]).word is ReplyCode.MOVED
    assert one.everything() == before


def test_a_job_that_is_not_idle_is_not_flushed(stage: Stages) -> None:
    """A second worker saw the same idleness but is late: there is work again, so the batch may still fill."""
    one = stage(batch=BATCH_OF_TWO).open(("a", b"1"), ("batch", b"2"))
    one.scripts.flush(JOB, one.revision, ["batch"])
    assert one.ready("default") == {}


def test_an_idle_job_waits_with_one_event_and_its_time(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(("a", b"1"))
    revision, since = one.run("a", ("join", b"2")).revision, one.now
    for _ in range(2):
        assert one.scripts.settle(JOB, revision, None) is ReplyCode.SETTLED
        one.now += 10
    assert (one.job("status"), one.job("idle_since")) == ("running", str(since))
    assert one.events().count("job_idle") == 1


def test_a_job_that_has_ended_is_no_longer_idle(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(("join", b"1"))
    one.scripts.settle(JOB, one.revision, None)
    one.finish(cancelled())
    assert one.job("idle_since") == ""


def test_a_commit_ends_the_idleness(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE, batch=BATCH_OF_TWO).open(("a", b"1"), ("batch", b"2"))
    one.scripts.settle(JOB, one.run("a").revision, None)
    one.scripts.flush(JOB, one.revision, ["batch"])
    one.run("batch")
    assert one.job("idle_since") == ""


@pytest.mark.parametrize("end", [None, completed(), failed()])
def test_a_job_is_settled_only_if_it_has_not_changed_since(stage: Stages, end: JobEnd | None) -> None:
    one = stage().open(("a", b"1"), ("b", b"2"))
    revision = one.run("a").revision
    before = one.everything()
    assert one.scripts.settle(JOB, revision, end, AGENTS) is ReplyCode.MOVED  # b is ready
    assert one.everything() == before
    held = one.claim("b")
    assert one.scripts.settle(JOB, revision, end, AGENTS) is ReplyCode.MOVED  # b is claimed
    one.scripts.commit(JOB, held.token, [one.answer(held.claims[0])], new_token())
    assert one.scripts.settle(JOB, revision, end, AGENTS) is ReplyCode.MOVED  # b has committed
    assert one.scripts.settle(JOB, revision + 1, end, AGENTS) is ReplyCode.SETTLED


def test_a_job_with_a_delayed_agent_is_not_settled(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"))
    held = one.claim("x")
    step = one.answer(held.claims[0])
    step.consumed, step.delay_ms = 0, 60_000
    revision = one.scripts.commit(JOB, held.token, [step], new_token()).revision
    assert one.scripts.settle(JOB, revision, completed(), AGENTS) is ReplyCode.MOVED


@pytest.mark.parametrize("end", [completed(), failed(), cancelled()])
def test_finishing_clears_claims_keeps_mail_and_records_one_event(stage: Stages, end: JobEnd) -> None:
    one = stage(x=EXECUTOR).open(("a", b"1"), ("b", b"2"), ("x", b"3"))
    held = one.claim("a", "c")
    assert [one.finish(end) for _ in range(2)] == [ReplyCode.SETTLED, ReplyCode.ENDED]
    assert (one.job("status"), one.job("result"), one.job("finished_at")) == (
        end.status,
        end.result.decode(),
        str(one.now),
    )
    assert (one.claims(), one.ready(), one.ready("default")) == ({}, {}, {})
    assert (one.agent("a", "token"), one.agent("c", "token")) == ("", "")
    assert (one.mail("a"), one.mail("b"), one.mail("x")) == ([b"1"], [b"2"], [b"3"])
    assert one.events().count(f"job_{end.status}") == 1
    assert one.scripts.renew(JOB, held.token, ["a"]) is ReplyCode.ENDED


@pytest.mark.parametrize("pending", [True, False])
def test_the_first_end_wins(stage: Stages, pending: bool) -> None:
    one = stage()
    one.create(("a", b"1"))
    if not pending:
        one.scripts.claim(JOB, new_token(), ANY_LIGHT, opening=True)
    one.finish(failed())
    before = one.everything()
    one.now += 1
    assert one.finish(completed()) is ReplyCode.ENDED
    assert one.scripts.settle(JOB, 0, completed(), AGENTS) is ReplyCode.ENDED
    assert one.scripts.settle(JOB, 0, None) is ReplyCode.ENDED
    assert one.scripts.flush(JOB, one.revision, ["a"]).word is ReplyCode.ENDED
    assert one.everything() == before


def test_the_end_is_published_as_a_small_notice(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    with one.redis.pubsub() as pubsub:
        pubsub.subscribe(result_channel(JOB.job_id))
        pubsub.get_message(timeout=10)
        one.finish(completed(b'{"agent_id":null,"output":"' + b"x" * 10_000 + b'"}'))
        notice = pubsub.get_message(timeout=10)
    assert decode(notice["data"]) == {"task_id": JOB.job_id, "status": "SUCCESS"}


def with_every_kind_of_key(one: Stage) -> Reply:
    """Make a job that has every kind of key, and return the claim of `a`."""
    one.open(("a", b"1"), ("batch", b"2"), ("x", b"3"))
    one.scripts.log(JOB.job_id, [("x", "stdout", "printed")], 1_000)
    one.scripts.deliver(JOB.job_id, "c", "id", b"4")
    held = one.claim("x")
    step = replace(one.answer(held.claims[0]), dead=[DeadLetterDraft("m", "nobody", "no agent", b"{}")])
    one.scripts.commit(JOB, held.token, [step], new_token())
    one.run("c")
    found = {suffix.split(":")[1] for suffix in one.lifetimes() if suffix}
    assert found == {"mail", "agent", "ready", "events", "delivered", "dead", "logs", "op"}
    return one.claim("a")


@pytest.mark.parametrize("way", ["commit", "settle", "finish"])
def test_every_way_to_end_a_job_sets_the_time_to_live_of_all_its_keys(stage: Stages, way: str) -> None:
    one = stage(x=EXECUTOR, batch=BATCH_OF_TWO)
    held = with_every_kind_of_key(one)
    step = one.answer(held.claims[0], ("b", b"3"), ("x", b"4"))
    if way == "commit":
        step.end = completed()
        one.scripts.commit(JOB, held.token, [step], new_token(), agents=AGENTS)
    elif way == "settle":
        one.scripts.commit(JOB, held.token, [one.answer(held.claims[0])], new_token())
        assert one.scripts.settle(JOB, one.revision, completed(), AGENTS) is ReplyCode.SETTLED
    else:
        one.finish(cancelled())
    lifetimes = one.lifetimes()
    assert {suffix.split(":")[1] for suffix in lifetimes if suffix} >= {"mail", "agent", "events", "delivered", "dead"}
    assert {suffix: left for suffix, left in lifetimes.items() if not 0 < left <= KEEP_S} == {}


def test_a_retry_removes_the_time_to_live_of_all_keys_of_the_job(stage: Stages) -> None:
    """A key that is left out expires during the next run, when the retention of the first run is over."""
    one = stage(x=EXECUTOR, batch=BATCH_OF_TWO)
    with_every_kind_of_key(one)
    before = one.lifetimes().keys()
    one.finish(failed())
    assert set(one.lifetimes().values()) != {-1}
    one.scripts.retry(JOB, b"{}", AGENTS, "", [])
    after = one.lifetimes()
    assert before - after.keys() == {":claims"}
    assert {suffix: left for suffix, left in after.items() if left != -1 and not suffix.startswith(":op:")} == {}


@pytest.mark.parametrize("way", ["claim", "commit"])
def test_a_repeated_call_is_recognized_for_a_minute(stage: Stages, way: str) -> None:
    """A client that lost a reply repeats the call after a timeout and a backoff, which must change nothing."""
    one = stage().open(("a", b"1"))
    held = one.claim("a", token="t")
    if way == "commit":
        one.scripts.commit(JOB, held.token, [one.answer(held.claims[0])], new_token())
    left = one.lifetimes()[":op:t" if way == "claim" else ":op:t:done"]
    assert 30 < left <= 60  # some of that time may have passed


def test_the_end_of_a_job_is_published_to_the_workers_that_run_its_agents(stage: Stages) -> None:
    """Their lease keepers end the runs. If no agent is claimed, nothing is published."""
    one = stage().open(("a", b"1"), ("b", b"2"))
    with one.redis.pubsub() as pubsub:
        pubsub.subscribe(one.keys.ends)
        pubsub.get_message(timeout=10)
        one.claim("b")
        one.finish(cancelled())
        notice = pubsub.get_message(timeout=10)
        assert notice["data"].decode() == one.keys.job(JOB.job_id)
        one.scripts.retry(JOB, b"{}", AGENTS, "", [])
        one.scripts.finish(ANOTHER_RUN, cancelled(), AGENTS)
        one.redis.publish(one.keys.ends, "nothing else")
        assert pubsub.get_message(timeout=10)["data"] == b"nothing else"


@pytest.mark.parametrize(("job", "word"), [(ANOTHER_RUN, ReplyCode.STALE), (NO_JOB, ReplyCode.MISSING)])
def test_calls_for_another_run_or_a_missing_job_change_nothing(stage: Stages, job: JobRef, word: ReplyCode) -> None:
    one = stage(batch=BATCH_OF_TWO).open(("batch", b"1"))
    before = one.everything()
    assert one.scripts.finish(job, failed(), AGENTS) is word
    assert one.scripts.settle(job, 0, completed(), AGENTS) is word
    assert one.scripts.settle(job, 0, None) is word
    assert one.scripts.flush(job, 0, ["batch"]).word is word
    assert one.scripts.renew(job, "t", ["batch"]) is word
    assert one.everything() == before
