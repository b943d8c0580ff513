"""create and claim: the state of a new job, which agents can be claimed, and the reply to a repeated call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirrorneuron.store.protocol import JobRef, ReplyCode, new_token
from mirrorneuron.store.scripts import MAX_MESSAGES
from tests.scripts.machine.stage import (
    ANY_HEAVY,
    ANY_LIGHT,
    BATCH_OF_TWO,
    EXECUTOR,
    JOB,
    JOIN_OF_THREE,
    LEASE_MS,
    Kind,
    Stage,
    completed,
    names,
    rows,
)

Stages = Callable[..., Stage]


def test_a_new_job_is_pending_with_its_mail_in_order(stage: Stages) -> None:
    one = stage()
    assert one.create(("a", b"1"), ("b", b"2"), ("a", b"3")) == (ReplyCode.CREATED, "pending")
    assert (one.mail("a"), one.mail("b")) == ([b"1", b"3"], [b"2"])
    assert one.ready() == {"a": one.now, "b": one.now}
    assert one.events() == ["job_pending", "job_validated"]


def test_creating_a_job_again_with_the_same_bundle_finds_it_and_changes_nothing(stage: Stages) -> None:
    one = stage()
    one.create(("a", b"1"))
    before = one.everything()
    one.now += 10
    assert one.create(("a", b"1")) == (ReplyCode.EXISTS, "pending")
    assert one.everything() == before


def test_another_bundle_under_the_same_id_is_a_conflict_and_changes_nothing(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    before = one.everything()
    assert one.create(("b", b"2"), digest="another") == (ReplyCode.CONFLICT, "running")
    assert one.everything() == before


def test_mail_below_the_threshold_does_not_make_an_agent_ready(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE, batch=BATCH_OF_TWO)
    one.create(("join", b"1"), ("join", b"2"), ("batch", b"3"))
    assert (one.ready(), one.ready("default")) == ({}, {})


def test_no_agent_is_claimed_before_the_job_is_opened(stage: Stages) -> None:
    one = stage()
    one.create(("a", b"1"))
    for agents in ((), ("a",)):
        reply = one.scripts.claim(JOB, new_token(), ANY_LIGHT, agents=agents)
        assert (reply.word, reply.claims, reply.waiting, reply.idle) == (ReplyCode.CLAIMED, (), (), False)


def test_opening_starts_the_job_and_reports_all_ready_agents(stage: Stages) -> None:
    one = stage(x=EXECUTOR, y=EXECUTOR)
    one.create(("a", b"1"), ("x", b"2"), ("y", b"3"))
    reply = one.scripts.claim(JOB, new_token(), ANY_LIGHT, opening=True)
    assert (one.job("status"), one.job("started_at")) == ("running", str(one.now))
    assert [(c.agent_id, c.mail) for c in reply.claims] == [("a", (b"1",))]
    assert rows(reply) == {"default": (2, 2, "")}
    assert one.events()[-2:] == ["job_scheduled", "job_running"]


def test_a_job_is_opened_once(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    one.now += 5
    one.scripts.claim(JOB, new_token(), (("light", 0),), opening=True)
    assert one.events().count("job_running") == 1
    assert one.job("started_at") == str(one.now - 5)


def test_a_claim_takes_a_lease_and_returns_all_mail_in_order(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("a", b"2"))
    one.now += 30
    reply = one.claim("a", token="t")
    assert [(c.mail, c.state, c.processed, c.attempts, c.waited_ms) for c in reply.claims] == [
        ((b"1", b"2"), b"", 0, 0, 30)
    ]
    assert (one.claims(), one.ready(), one.agent("a", "token")) == ({"a": one.now + LEASE_MS}, {}, "t")
    assert one.agent("a", "node") == "node-1"
    assert one.mail("a") == [b"1", b"2"]  # consumed only by the commit


def test_the_claim_of_an_executor_returns_one_message_and_records_its_lease(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"), ("x", b"2"))
    reply = one.claim("x")
    assert reply.claims[0].mail == (b"1",)
    assert one.events()[-1] == "executor_lease_acquired"
    assert "executor_lease_requested" in one.events()


@pytest.mark.parametrize("depth", [63, 64, 65, 128, 129, MAX_MESSAGES + 50])
def test_a_claim_returns_as_much_mail_as_one_claim_may_hold(stage: Stages, depth: int) -> None:
    one = stage().open(*(("a", b"%d" % n) for n in range(depth)))
    reply = one.claim("a")
    assert reply.claims[0].mail == tuple(b"%d" % n for n in range(min(depth, MAX_MESSAGES)))


def test_a_claim_returns_at_least_the_threshold_of_an_aggregator(stage: Stages) -> None:
    one = stage(join=Kind(threshold=1_500)).open(*(("join", b"m") for _ in range(1_500)))
    assert len(one.claim("join").claims[0].mail) == 1_500


def test_a_claim_of_large_messages_stops_at_the_byte_limit_after_at_least_one(stage: Stages) -> None:
    large = b"x" * 9 * 1024 * 1024
    one = stage().open(("a", large), ("a", large), ("a", large), ("b", large))
    reply = one.scripts.claim(JOB, new_token(), ANY_LIGHT)
    assert [(c.agent_id, len(c.mail)) for c in reply.claims] == [("a", 2)]
    assert rows(reply) == {"light": (1, 0, "b")}


def test_a_claim_of_several_agents_stops_at_the_message_limit(stage: Stages) -> None:
    one = stage().open(*((name, b"m") for name in "abc" for _ in range(MAX_MESSAGES // 2)))
    reply = one.scripts.claim(JOB, new_token(), ANY_LIGHT)
    assert [(c.agent_id, len(c.mail)) for c in reply.claims] == [(name, MAX_MESSAGES // 2) for name in "ab"]
    assert rows(reply) == {"light": (1, 0, "c")}


def test_a_claimed_agent_cannot_be_claimed_again(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    one.claim("a")
    assert one.claim("a").claims == ()
    assert one.scripts.claim(JOB, new_token(), ANY_LIGHT).claims == ()


def test_the_agents_that_are_ready_for_longest_are_claimed_first(stage: Stages) -> None:
    one = stage(x=EXECUTOR, y=EXECUTOR, z=EXECUTOR).open(("a", b"1"), ("b", b"2"), ("c", b"3"))
    for agent, target in (("c", "z"), ("a", "x"), ("b", "y")):
        one.now += 1
        one.run(agent, (target, b"m"))
    order = [names(one.scripts.claim(JOB, new_token(), ANY_HEAVY).claims)[0] for _ in range(3)]
    assert order == ["z", "x", "y"]


def test_the_first_wanted_pool_with_ready_agents_is_claimed_from(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("a", b"1"), ("b", b"2"), ("x", b"3"))
    wanted = (("light", 1), ("default", 1))
    assert [names(one.scripts.claim(JOB, new_token(), wanted).claims) for _ in range(4)] == [["a"], ["b"], ["x"], []]


def test_a_repeated_claim_returns_the_same_and_nothing_more(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("a", b"1"), ("b", b"2"), ("x", b"3"))
    wanted = (("light", 1), ("default", 1))
    first = one.scripts.claim(JOB, "t", wanted)
    again = one.scripts.claim(JOB, "t", wanted)
    assert [(c.agent_id, c.mail) for c in again.claims] == [(c.agent_id, c.mail) for c in first.claims]
    assert set(one.claims()) == {"a"}


def test_a_claim_that_returned_nothing_returns_nothing_when_it_is_repeated(stage: Stages) -> None:
    """Agents that became ready between the two calls were announced to another worker."""
    one = stage().open(("a", b"1"))
    held = one.claim("a")
    assert one.scripts.claim(JOB, "t", ANY_LIGHT).claims == ()
    one.scripts.commit(JOB, held.token, [one.answer(held.claims[0], ("b", b"2"))], new_token())
    again = one.scripts.claim(JOB, "t", ANY_LIGHT)
    assert (again.claims, one.claims()) == ((), {})
    assert rows(again)["light"][0] == 1


def test_a_repeated_opening_claim_reports_all_ready_agents_again(stage: Stages) -> None:
    """They were not announced to other workers: without this report the job would not continue."""
    one = stage(x=EXECUTOR)
    one.create(("x", b"1"))
    first = one.scripts.claim(JOB, "t", ANY_LIGHT, opening=True)
    again = one.scripts.claim(JOB, "t", ANY_LIGHT, opening=True)
    assert rows(first) == rows(again) == {"default": (1, 1, "x")}


def test_a_claim_of_another_run_or_job_is_refused(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    before = one.everything()
    assert one.scripts.claim(JobRef(JOB.job_id, 2, "digest"), "t", ANY_LIGHT).word is ReplyCode.STALE
    assert one.scripts.claim(JobRef(JOB.job_id, 1, "of another bundle"), "t", ANY_LIGHT).word is ReplyCode.STALE
    assert one.scripts.claim(JobRef("no-job", 1, "digest"), "t", ANY_LIGHT).word is ReplyCode.MISSING
    assert one.everything() == before


def test_an_ended_job_gives_no_claim_and_is_not_opened_again(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    one.finish(completed())
    before = one.everything()
    for opening in (False, True):
        reply = one.scripts.claim(JOB, new_token(), ANY_LIGHT, opening=opening)
        assert (reply.word, reply.claims, reply.waiting, reply.idle) == (ReplyCode.ENDED, (), (), False)
    assert one.everything() == before


def test_a_claim_reports_that_the_job_is_idle(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(("join", b"1"))
    reply = one.scripts.claim(JOB, new_token(), ANY_LIGHT)
    assert (reply.idle, reply.revision, reply.claims) == (True, 0, ())


def test_the_following_agents_are_claimed_with_the_first_while_they_are_free(stage: Stages) -> None:
    """They can then handle the messages of the first one in the same commit."""
    one = stage().open(("a", b"1"), ("d", b"2"))
    reply = one.claim("a", "b", "c", "d", "x")
    assert [(c.agent_id, c.mail) for c in reply.claims] == [("a", (b"1",)), ("b", ()), ("c", ())]
    assert (set(one.claims()), one.ready()) == ({"a", "b", "c"}, {"d": one.now})


def test_no_agent_is_claimed_with_one_that_is_not_due(stage: Stages) -> None:
    one = stage().open(("b", b"1"))
    assert one.claim("a", "b").claims == ()
    assert one.claims() == {}


def test_an_agent_that_another_worker_has_claimed_is_not_claimed_with_the_first(stage: Stages) -> None:
    """Whether it was claimed with mail or, with an empty mailbox, for inline mail."""
    one = stage().open(("a", b"1"), ("b", b"2"), ("d", b"3"), ("x", b"4"))
    one.claim("b")
    assert names(one.claim("d", "c").claims) == ["d", "c"]
    assert names(one.claim("a", "b", "y").claims) == ["a"]
    assert names(one.claim("x", "c", "y").claims) == ["x"]


def test_a_repeated_claim_of_several_agents_returns_all_of_them(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    first, again = (one.claim("a", "b", "c", token="t") for _ in range(2))
    assert [(c.agent_id, c.mail) for c in again.claims] == [(c.agent_id, c.mail) for c in first.claims]
