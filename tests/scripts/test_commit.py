"""commit: a run takes effect atomically and exactly once, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mirrorneuron.store.protocol import DeadLetterDraft, JobEnd, JobRef, ReplyCode, Step, new_token, untouched
from tests.scripts.machine.stage import (
    ANY_HEAVY,
    ANY_LIGHT,
    BATCH_OF_TWO,
    EXECUTOR,
    JOB,
    JOIN_OF_THREE,
    LEASE_MS,
    Stage,
    completed,
    failed,
    names,
    rows,
)

Stages = Callable[..., Stage]


def test_a_commit_writes_everything_and_releases_the_claim(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("a", b"2"))
    held = one.claim("a")
    one.now += 3
    step = Step("a", 1, 1, b'{"n":1}', b"1", b'"out"', error="", outgoing=[("b", b"3")], events=[("seen", b"[]")])
    reply = one.scripts.commit(JOB, held.token, [step], new_token())
    assert (reply.word, reply.revision, reply.idle, reply.claims) == (ReplyCode.COMMITTED, 1, False, ())
    assert (one.mail("a"), one.mail("b"), one.claims()) == ([b"2"], [b"3"], {})
    assert [one.agent("a", name) for name in ("state", "last", "output", "processed")] == ['{"n":1}', "1", '"out"', "1"]
    assert (one.events()[-1], one.job("updated_at")) == ("seen", str(one.now))
    assert rows(reply) == {"light": (2, 2, "")}


def test_empty_fields_of_a_step_leave_the_agent_as_it_was(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(("join", b"1"), ("join", b"2"), ("join", b"3"))
    held = one.claim("join")
    first = replace(one.answer(held.claims[0]), state=b"{}", last=b"3", output=b"9", threshold=2)
    one.scripts.commit(JOB, held.token, [replace(first, consumed=1)], new_token())
    held = one.claim("join")
    assert held.claims[0].state == b"{}"
    one.scripts.commit(JOB, held.token, [Step("join", 2, 3)], new_token())
    assert [one.agent("join", name) for name in ("state", "last", "output", "threshold")] == ["{}", "3", "9", "2"]


def test_a_stale_commit_is_refused_as_a_whole(stage: Stages) -> None:
    """One agent of the commit is no longer claimed, so the steps of the others are refused too."""
    one = stage().open(("a", b"1"), ("b", b"2"), ("c", b"3"))
    held = one.scripts.claim(JOB, new_token(), (("light", 2),))
    other = one.claim("c")
    before = one.everything()
    steps = [one.answer(claim, ("d", b"4")) for claim in (*held.claims, *other.claims)]
    assert one.scripts.commit(JOB, held.token, steps, new_token(), ANY_LIGHT).word is ReplyCode.STALE
    assert one.scripts.commit(JOB, new_token(), steps[:1], new_token(), ANY_LIGHT).word is ReplyCode.STALE
    assert one.everything() == before


def test_a_commit_of_an_earlier_run_of_the_job_is_refused(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a")
    before = one.everything()
    old = JobRef(JOB.job_id, 0, JOB.digest)
    assert one.scripts.commit(old, held.token, [one.answer(held.claims[0])], new_token()).word is ReplyCode.STALE
    assert one.everything() == before


def test_a_repeated_commit_gets_the_same_reply_and_changes_nothing(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("a", b"1"), ("b", b"2"))
    held = one.scripts.claim(JOB, new_token(), (("light", 1),))
    steps, token = [one.answer(held.claims[0], ("x", b"3"), ("b", b"4"))], new_token()
    first = one.scripts.commit(JOB, held.token, steps, token, ANY_LIGHT)
    before = one.everything()
    again = one.scripts.commit(JOB, held.token, steps, token, ANY_LIGHT)
    assert (again.word, again.revision, again.claims[0].mail) == (first.word, first.revision, (b"2", b"4"))
    assert names(again.claims) == names(first.claims) == ["b"]
    assert rows(again) == rows(first) == {"default": (1, 1, "x")}
    assert one.everything() == before


def test_a_commit_that_ended_the_job_is_still_answered_as_committed(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a")
    steps = [replace(one.answer(held.claims[0]), end=completed())]
    replies = [one.scripts.commit(JOB, held.token, steps, new_token()) for _ in range(2)]
    assert [reply.word for reply in replies] == [ReplyCode.COMMITTED, ReplyCode.COMMITTED]
    assert one.events().count("job_completed") == 1


def test_a_repeated_commit_gets_ended_if_another_call_has_ended_the_job(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a")
    steps, token = [one.answer(held.claims[0], ("b", b"2"))], new_token()
    one.scripts.commit(JOB, held.token, steps, token, ANY_LIGHT)
    one.finish(failed())
    again = one.scripts.commit(JOB, held.token, steps, token, ANY_LIGHT)
    assert (again.word, again.claims) == (ReplyCode.ENDED, ())


def test_a_commit_repeated_after_the_agent_ran_again_is_still_answered_as_committed(stage: Stages) -> None:
    """Between the lost reply and the repetition another worker ran the same agent."""
    one = stage().open(("a", b"1"), ("b", b"2"))
    held = one.claim("a")
    steps, token = [one.answer(held.claims[0], ("a", b"3"))], new_token()
    one.now += 1  # b is then ready for longer than a
    one.scripts.commit(JOB, held.token, steps, token, (("light", 1),))
    one.run("a")
    again = one.scripts.commit(JOB, held.token, steps, token, (("light", 1),))
    assert (again.word, names(again.claims)) == (
        ReplyCode.COMMITTED,
        ["b"],
    )  # only this worker can release b


def test_mail_that_arrives_for_a_claimed_agent_makes_it_ready_after_the_commit(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("b", b"2"))
    held = one.claim("a")
    reply = one.run("b", ("a", b"3"))
    assert (one.ready(), rows(reply)) == ({}, {})
    reply = one.scripts.commit(JOB, held.token, [one.answer(held.claims[0])], new_token())
    assert one.mail("a") == [b"3"]
    assert rows(reply) == {"light": (1, 1, "a")}


def test_an_agent_that_sends_to_itself_is_ready_again(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    reply = one.run("a", ("a", b"2"), ("a", b"3"))
    assert rows(reply) == {"light": (1, 1, "a")}
    assert one.mail("a") == [b"2", b"3"]


def test_a_mailbox_keeps_the_order_of_the_commits(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("b", b"2"))
    first, second = one.claim("a"), one.claim("b")
    one.scripts.commit(JOB, second.token, [one.answer(second.claims[0], ("c", b"b1"), ("c", b"b2"))], new_token())
    one.scripts.commit(JOB, first.token, [one.answer(first.claims[0], ("c", b"a1"))], new_token())
    assert one.mail("c") == [b"b1", b"b2", b"a1"]


def test_a_join_becomes_ready_with_its_last_message_and_is_reported_once(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(("a", b"1"), ("b", b"2"), ("c", b"3"), ("d", b"4"))
    new = [rows(one.run(agent, ("join", b"m"))).get("light", (0, 0, ""))[1] for agent in "abcd"]
    assert new == [0, 0, 1, 0]
    assert "join" in one.ready()


def test_a_step_may_raise_or_lower_the_threshold_of_its_agent(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE).open(*(("join", b"%d" % n) for n in range(5)))
    for consumed, threshold, ready in ((1, 5, False), (0, 2, True)):
        one.redis.hset(one.keys.agent(JOB.job_id, "join"), "threshold", 1)
        one.scripts.flush(JOB, one.revision, ["join"])
        held = one.claim("join")
        one.scripts.commit(JOB, held.token, [Step("join", consumed, threshold=threshold)], new_token())
        assert ("join" in one.ready()) is ready


def test_a_delayed_agent_is_not_claimed_before_its_time_and_the_job_is_not_idle(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"))
    held = one.claim("x")
    reply = one.scripts.commit(JOB, held.token, [Step("x", attempts=1, delay_ms=500, error="e")], new_token())
    assert (reply.idle, rows(reply)) == (False, {})
    one.now += 499
    early = one.scripts.claim(JOB, new_token(), ANY_HEAVY)
    assert (early.claims, early.idle, one.claim("x").claims) == ((), False, ())
    one.now += 1
    due = one.claim("x")
    assert [(c.attempts, c.mail) for c in due.claims] == [(1, (b"1",))]
    assert due.claims[0].waited_ms == 0


def test_an_agent_with_a_delay_of_zero_is_reported_at_once(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"))
    held = one.claim("x")
    reply = one.scripts.commit(JOB, held.token, [Step("x", attempts=1, delay_ms=0)], new_token())
    assert rows(reply) == {"default": (1, 1, "x")}


def test_more_mail_does_not_move_a_ready_agent_to_the_end_of_the_ready_set(stage: Stages) -> None:
    one = stage(x=EXECUTOR, y=EXECUTOR).open(("x", b"1"), ("a", b"2"))
    since = one.now
    one.now += 1
    assert rows(one.run("a", ("y", b"3"), ("x", b"4"))) == {"default": (2, 1, "")}
    assert one.ready("default") == {"x": since, "y": since + 1}


def test_a_failed_run_leaves_its_error_until_the_next_commit(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"))
    for error in ("exit 1", ""):
        held = one.claim("x")
        one.scripts.commit(JOB, held.token, [Step("x", attempts=1, error=error)], new_token())
        assert one.agent("x", "error") == error


def test_new_mail_does_not_bring_a_delayed_agent_forward(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("x", b"1"), ("a", b"2"))
    held = one.claim("x")
    one.scripts.commit(JOB, held.token, [Step("x", attempts=1, delay_ms=500)], new_token())
    assert rows(one.run("a", ("x", b"3"))) == {}
    assert one.ready("default") == {"x": one.now + 500}


def test_a_commit_claims_the_next_agents(stage: Stages) -> None:
    one = stage(x=EXECUTOR).open(("a", b"1"))
    held = one.claim("a")
    step = one.answer(held.claims[0], ("x", b"2"), ("b", b"3"), ("c", b"4"))
    reply = one.scripts.commit(JOB, held.token, [step], "next", (("light", 8), ("default", 1)))
    assert (names(reply.claims), reply.token) == (["b", "c"], "next")
    assert one.claims() == {"b": one.now + LEASE_MS, "c": one.now + LEASE_MS}
    assert rows(reply) == {"default": (1, 1, "x")}


def test_the_last_commit_of_a_job_says_that_it_is_idle(stage: Stages) -> None:
    one = stage(join=JOIN_OF_THREE, batch=BATCH_OF_TWO).open(("a", b"1"), ("b", b"2"))
    assert one.run("a", ("join", b"3")).idle is False
    held = one.claim("b")
    steps, token = [one.answer(held.claims[0], ("batch", b"4"))], new_token()
    for _ in range(2):  # also in the reply to a repeated call
        reply = one.scripts.commit(JOB, held.token, steps, token, ANY_LIGHT)
        assert reply.idle is True  # mail below the threshold does not count


def test_a_job_with_a_claim_is_not_idle(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("b", b"2"))
    one.claim("a")
    assert one.run("b").idle is False


@pytest.mark.parametrize("end", [completed(), failed()])
def test_the_commit_that_ends_the_job_clears_its_claims_and_keeps_its_mail(stage: Stages, end: JobEnd) -> None:
    one = stage(x=EXECUTOR).open(("a", b"1"), ("b", b"2"), ("x", b"3"))
    one.claim("b")
    held = one.claim("a")
    step = replace(one.answer(held.claims[0], ("c", b"4")), end=end)
    reply = one.scripts.commit(JOB, held.token, [step], new_token(), ANY_LIGHT)
    assert (reply.word, reply.claims, reply.waiting, reply.idle) == (ReplyCode.COMMITTED, (), (), False)
    assert (one.job("status"), one.job("result")) == (end.status, end.result.decode())
    assert (one.claims(), one.ready(), one.ready("default"), one.agent("b", "token")) == ({}, {}, {}, "")
    assert (one.mail("b"), one.mail("c"), one.mail("x")) == ([b"2"], [b"4"], [b"3"])


def test_a_commit_after_the_end_changes_nothing_and_gets_ended(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a")
    one.finish(failed())
    before = one.everything()
    step = replace(one.answer(held.claims[0], ("b", b"2")), end=completed())
    assert one.scripts.commit(JOB, held.token, [step], new_token(), ANY_LIGHT).word is ReplyCode.ENDED
    assert one.everything() == before


def test_user_json_passes_through_untouched(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    text = '{"empty":[],"big":12345678901234567890,"e":1e400,"u":"\\u0000é"}'.encode()
    held = one.claim("a")
    step = replace(one.answer(held.claims[0], ("b", text)), state=text, events=[("e", text)])
    one.scripts.commit(JOB, held.token, [step], new_token())
    assert one.agent("a", "state").encode() == text
    assert one.claim("b").claims[0].mail == (text,)


def test_a_fan_out_of_ten_thousand_messages_is_one_commit(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    reply = one.run("a", *((f"n{n}", b"m") for n in range(10_000)))
    assert rows(reply) == {"light": (10_000, 10_000, "")}


def test_a_commit_for_a_deleted_job_gets_missing(stage: Stages) -> None:
    one = stage()
    assert one.scripts.commit(JOB, "t", [Step("a")], new_token()).word is ReplyCode.MISSING
    assert one.everything() == {}


def test_inline_mail_is_never_written_to_the_mailbox(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a", "b")
    steps = [one.answer(held.claims[0]), Step("b", processed=1, last=b"2", outgoing=[("c", b"3")], inline_only=True)]
    reply = one.scripts.commit(JOB, held.token, steps, new_token())
    assert (reply.word, reply.revision, rows(reply)) == (ReplyCode.COMMITTED, 1, {"light": (1, 1, "c")})
    assert (one.mail("a"), one.mail("b"), one.claims()) == ([], [], {})
    assert (one.agent("b", "processed"), one.agent("b", "last")) == ("1", "2")


def test_inline_mail_does_not_overtake_mail_that_arrived_since_the_claim(stage: Stages) -> None:
    """The commit is refused as a whole and the claim stays, so that the worker can send that mail to the mailbox."""
    one = stage().open(("a", b"1"), ("d", b"2"))
    held = one.claim("a", "b")
    one.run("d", ("b", b"3"))
    before = one.everything()
    steps = [one.answer(held.claims[0]), Step("b", processed=1, inline_only=True)]
    assert one.scripts.commit(JOB, held.token, steps, "next").word is ReplyCode.MOVED
    assert one.everything() == before
    steps = [one.answer(held.claims[0], ("b", b"4")), Step("b")]
    assert rows(one.scripts.commit(JOB, held.token, steps, "next")) == {"light": (1, 1, "b")}
    assert (one.mail("b"), one.agent("b", "processed")) == ([b"3", b"4"], "0")


def test_mail_that_arrives_for_an_agent_claimed_without_mail_makes_it_ready(stage: Stages) -> None:
    one = stage().open(("a", b"1"), ("d", b"2"))
    held = one.claim("a", "b")
    assert rows(one.run("d", ("b", b"3"))) == {}
    reply = one.scripts.commit(JOB, held.token, [one.answer(held.claims[0]), Step("b")], new_token())
    assert rows(reply) == {"light": (1, 1, "b")}


def test_the_newest_thousand_dead_letters_are_kept(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a")
    step = replace(
        one.answer(held.claims[0]), dead=[DeadLetterDraft(f"{n}", "nobody", "why", b"{}") for n in range(1_001)]
    )
    one.scripts.commit(JOB, held.token, [step], new_token())
    kept = [fields[b"i"] for _, fields in one.redis.xrange(one.keys.dead(JOB.job_id))]
    assert kept == [b"%d" % n for n in range(1, 1_001)]


def test_runs_that_are_over_are_committed_while_another_run_of_the_claim_goes_on(stage: Stages) -> None:
    """The claim of that run is kept, with its mail now in the mailbox. The agents after it are given back."""
    one = stage().open(("a", b"1"))
    held = one.claim("a", "b", "c")
    a, b, c = held.claims
    over = [one.answer(a, ("b", b"2")), Step("b", goes_on=True), untouched(c)]
    for _ in range(2):  # the second one as after a lost reply
        reply = one.scripts.commit(JOB, held.token, over, new_token(), early=True)
        assert (reply.word, reply.idle) == (ReplyCode.COMMITTED, False)
        assert (set(one.claims()), one.mail("b"), one.agent("a", "processed")) == ({"b"}, [b"2"], "1")
    rest = one.answer(replace(b, mail=(b"2",)), ("c", b"3"))
    assert one.scripts.commit(JOB, held.token, [rest], new_token()).word is ReplyCode.COMMITTED
    assert (one.claims(), one.mail("b"), one.mail("c"), set(one.ready())) == ({}, [], [b"3"], {"c"})


def test_a_run_on_mail_of_its_own_commit_does_not_overtake_other_mail(stage: Stages) -> None:
    one = stage().open(("a", b"1"))
    held = one.claim("a", "b")
    one.scripts.deliver(JOB.job_id, "b", "id", b"other")
    steps = [one.answer(held.claims[0], ("b", b"2")), Step("b", goes_on=True)]
    assert one.scripts.commit(JOB, held.token, steps, new_token(), early=True).word is ReplyCode.MOVED
    assert (set(one.claims()), one.mail("a"), one.mail("b")) == ({"a", "b"}, [b"1"], [b"other"])
