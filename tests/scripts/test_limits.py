"""What a job may keep in the store: mail, dead letters, events."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirrorneuron.store.protocol import DeadLetterDraft, ReplyCode, Step, new_token
from mirrorneuron.store.scripts import Limits
from tests.scripts.machine.stage import JOB, Stage, cancelled

Stages = Callable[..., Stage]
SMALL = Limits(mail_bytes=10, events=1_000, event_bytes=100_000)


def test_a_commit_that_would_leave_too_much_mail_is_refused_and_changes_nothing(stage: Stages) -> None:
    one = stage(limits=SMALL).open(("a", b"12"), ("a", b"34"))
    held = one.claim("a")
    before = one.everything()
    step = Step("a", 1, 1, outgoing=[("b", b"12345"), ("c", b"6789")], consumed_bytes=2)
    assert one.scripts.commit(JOB, held.token, [step], new_token()).word is ReplyCode.FULL
    assert one.everything() == before
    step = Step("a", 1, 1, outgoing=[("b", b"12345"), ("c", b"678")], consumed_bytes=2)
    assert one.scripts.commit(JOB, held.token, [step], new_token()).word is ReplyCode.COMMITTED
    assert one.job("mail_bytes") == "10"


def test_mail_that_does_not_grow_is_accepted_although_the_limit_was_lowered(stage: Stages) -> None:
    one = stage(limits=SMALL).open(("a", b"0123456789"), ("b", b"0123456789"))
    held = one.claim("a")
    step = Step("a", 1, 1, outgoing=[("c", b"987654321")], consumed_bytes=10)
    assert one.scripts.commit(JOB, held.token, [step], new_token()).word is ReplyCode.COMMITTED
    assert one.job("mail_bytes") == "19"


def test_a_message_from_outside_that_would_be_too_much_mail_is_refused(stage: Stages) -> None:
    one = stage(limits=SMALL).open(("a", b"01234"))
    words = [one.scripts.deliver(JOB.job_id, "b", f"id{size}", b"x" * size).word for size in (6, 5, 1)]
    assert words == [ReplyCode.FULL, ReplyCode.DELIVERED, ReplyCode.FULL]
    assert one.scripts.deliver(JOB.job_id, "b", "id5", b"x" * 5).word is ReplyCode.DUPLICATE
    assert one.job("mail_bytes") == "10"


def test_mail_that_a_retry_clears_does_not_count_any_more(stage: Stages) -> None:
    one = stage().open(("a", b"123"), ("b", b"4567"), ("b", b"89"))
    one.finish(cancelled())
    one.scripts.retry(JOB, b"{}", ["a", "b"], "b", [("b", "")])
    assert (one.mail("b"), one.job("mail_bytes")) == ([b"4567"], "7")


def test_the_oldest_dead_letters_are_dropped_above_the_limit_of_bytes(stage: Stages) -> None:
    one = stage(limits=SMALL).open(*[("a", b"m%d" % n) for n in range(6)])
    for number in range(6):
        held = one.claim("a")
        dead = DeadLetterDraft(f"id{number}", "a", "expired", b"123%d" % number)
        one.scripts.commit(JOB, held.token, [Step("a", 1, 1, dead=[dead], consumed_bytes=2)], new_token())
    rows = one.redis.xrange(one.keys.dead(JOB.job_id))
    assert [fields[b"m"] for _, fields in rows] == [b"1234", b"1235"]
    assert one.job("dead_bytes") == "8"
    entry = rows[0][0].decode()
    assert one.scripts.deliver(JOB.job_id, "a", "again", b"1234", entry).word is ReplyCode.DELIVERED
    assert one.job("dead_bytes") == "4"


def test_a_dead_letter_larger_than_the_limit_is_kept_while_it_is_the_newest(stage: Stages) -> None:
    one = stage(limits=SMALL).open(("a", b"1"))
    dead = DeadLetterDraft("id", "a", "expired", b"x" * 50)
    one.scripts.commit(JOB, one.claim("a").token, [Step("a", 1, 1, dead=[dead])], new_token())
    assert one.redis.xlen(one.keys.dead(JOB.job_id)) == 1


@pytest.mark.parametrize(("payload_bytes", "kept"), [(10, (900, 1_000)), (1_000, (50, 101))])
def test_the_oldest_events_are_dropped_above_the_limits(
    stage: Stages, payload_bytes: int, kept: tuple[int, int]
) -> None:
    """By their number, and by the bytes of their payloads."""
    one = stage(limits=SMALL).open(*[("a", b"%d" % n) for n in range(9)])
    for number in range(9):
        held = one.claim("a")
        events = [("told", b"%d" % number * payload_bytes)] * 200
        one.scripts.commit(JOB, held.token, [Step("a", 1, 1, events=events)], new_token())
    rows = one.redis.xrange(one.keys.events(JOB.job_id))
    assert kept[0] <= len(rows) <= kept[1]
    assert rows[-1][1][b"p"] == b"8" * payload_bytes
    counted = sum(len(fields[b"p"]) for _, fields in rows if len(fields[b"p"]) > 256)
    assert int(one.job("event_bytes") or 0) == counted <= SMALL.event_bytes
