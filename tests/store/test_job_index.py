"""The indexes of jobs: they match the jobs also if jobs are created, retried or deleted at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from redis.exceptions import ResponseError

from mirrorneuron.api.client import Client
from mirrorneuron.api.control import Control
from mirrorneuron.chaos.invariants import leaked_keys
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.job import JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import Refused, connect
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import ReplyCode
from tests.support.store import Jobs
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.recovery import sweeper as sweeper_module
from workers.recovery.sweeper import ORPHAN_MS, Sweeper

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def sweeper(store: Store) -> Sweeper:
    return Sweeper(store, make_app(store.settings), lambda digest: store.plan(digest)[0])


def test_a_retried_job_is_live_although_its_last_run_is_marked_ended_meanwhile(
    settings: Settings, store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that ended the run marks the job as ended a little later, and the sweeper may do so too."""
    jobs.submit("j")
    jobs.open("j")
    jobs.end("j", JobStatus.FAILED)
    app = make_app(settings)
    control = Control(store, lambda plan: Chains(app, settings.redis_namespace, plan))
    retry = store.scripts.retry

    def marked_ended_meanwhile(*args: Any) -> Any:
        store.index.mark_ended(["j"])
        return retry(*args)

    monkeypatch.setattr(store.scripts, "retry", marked_ended_meanwhile)
    assert control.retry("j", None)["status"] == "running"
    assert store.index.live() == ["j"]
    assert store.client.zcard(store.keys.ended) == 0


def test_a_retry_whose_reply_was_lost_starts_no_second_run(store: Store, jobs: Jobs) -> None:
    """The run that the first call started may have ended already."""
    jobs.submit("j")
    jobs.open("j")
    jobs.end("j", JobStatus.FAILED)
    ended = jobs.ref("j")
    assert store.scripts.retry(ended, b"{}", ["a"], "", [])[1] == 2
    jobs.end("j", JobStatus.FAILED)
    moved, run = store.scripts.retry(ended, b"{}", ["a"], "", [])
    assert (moved.status, run) == ("failed", 2)


def test_a_job_under_the_id_of_an_expired_one_stays_listed(make_store: Callable[..., Store], jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.end("j")
    jobs.store.index.mark_ended(["j"])
    jobs.store.client.delete(jobs.store.keys.job("j"))  # its retention is over
    jobs.submit("j")
    later = make_store(clock=lambda: jobs.store.now_ms() + 2 * HOUR_MS)
    later.index.forget_expired()
    assert [job["job_id"] for job in later.jobs(live_only=True)] == ["j"]
    assert later.client.zcard(later.keys.ended) == 0


def test_pages_have_each_job_once_while_jobs_are_submitted_and_deleted(
    make_store: Callable[..., Store], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six jobs with three submission times, two per page; after the first page one is submitted and one deleted."""
    monkeypatch.setattr("mirrorneuron.store.status_index.PAGE", 2)
    for n in range(6):
        Jobs(make_store(clock=lambda n=n: 1_700_000_000_000 + n // 2)).submit(f"j{n}")
    pages = store.index.pages()
    seen = [*next(pages)]
    Jobs(store).submit("new")
    store.index.remove(seen[0])
    for page in pages:
        seen += page
    assert sorted(seen) == [f"j{n}" for n in range(6)]
    assert seen[0] in ("j4", "j5")


def test_a_key_of_another_type_in_place_of_a_job_does_not_hide_other_jobs(
    settings: Settings, store: Store, jobs: Jobs
) -> None:
    """Neither from `list_jobs` nor from the sweeper."""
    jobs.submit("j")
    store.client.set(store.keys.job("foreign"), "not a hash")
    store.client.zadd(store.keys.jobs, {"foreign": store.now_ms()})
    store.client.sadd(store.keys.live, "foreign")
    assert [job["job_id"] for job in Client(settings).list_jobs()] == ["j"]
    one = sweeper(store)
    assert one.tick()
    jobs.end("j")
    assert one.tick()
    assert one.tick(), "the job was asked for before this sweep"
    assert store.index.live() == ["foreign"]


def test_a_job_whose_bundle_is_lost_can_be_cancelled_and_cleaned_up(
    settings: Settings, store: Store, jobs: Jobs
) -> None:
    for name in ("j", "k"):
        jobs.submit(name)
    store.client.delete(store.keys.manifest(jobs.ref("j").digest))
    client = Client(settings)
    assert client.cancel("j")["status"] == "cancelled"
    assert sorted(client.cleanup_jobs(all=True)) == ["j", "k"]
    assert list(store.client.scan_iter(f"{store.keys.ns}:job:*")) == []


def test_the_entries_of_a_job_are_removed_when_its_retention_is_over_and_not_before(
    make_store: Callable[..., Store], store: Store, jobs: Jobs
) -> None:
    """Its keys expire at the same time."""
    for name in ("over", "kept", "live"):
        jobs.submit(name)
    jobs.end("over")
    jobs.end("kept")
    store.index.mark_ended(["over"])
    make_store(clock=lambda: store.now_ms() + HOUR_MS // 2).index.mark_ended(["kept"])
    early, late = (make_store(clock=lambda ms=ms: store.now_ms() + ms) for ms in (HOUR_MS - 60_000, HOUR_MS + 60_000))
    store.client.delete(store.keys.job("over"))  # its retention is over
    early.index.forget_expired()
    assert set(store.client.zrange(store.keys.jobs, 0, -1)) == {b"over", b"kept", b"live"}
    late.index.forget_expired()
    assert set(store.client.zrange(store.keys.jobs, 0, -1)) == {b"kept", b"live"}
    assert store.client.zrange(store.keys.ended, 0, -1) == [b"kept"]
    assert store.index.live() == ["live"]


def test_a_sweep_removes_the_entries_of_expired_jobs(
    make_store: Callable[..., Store], store: Store, jobs: Jobs
) -> None:
    jobs.submit("j")
    jobs.end("j")
    store.index.mark_ended(["j"])
    store.client.delete(store.keys.job("j"))
    assert sweeper(make_store(clock=lambda: store.now_ms() + 2 * HOUR_MS)).tick()
    assert store.client.exists(store.keys.jobs, store.keys.ended) == 0


def test_an_entry_without_a_job_is_removed_when_it_is_too_old_for_a_submission_in_progress(
    make_store: Callable[..., Store], store: Store
) -> None:
    """A submission writes the entries first; a producer that dies then leaves entries without a job."""
    for command in store.index.entries("ghost", store.now_ms()):
        store.client.execute_command(*command)
    store.client.sadd(store.keys.live, "never listed")
    assert sweeper(store).tick()
    assert store.index.live() == ["ghost"]
    later = make_store(clock=lambda: store.now_ms() + 2 * ORPHAN_MS)
    store.client.delete(store.keys.sweeper)
    assert sweeper(later).tick()
    assert (store.index.live(), store.client.exists(store.keys.jobs)) == ([], 0)


def test_a_live_job_that_is_marked_ended_stays_live(store: Store, jobs: Jobs) -> None:
    """A server that crashed and lost its last second of writes may have lost the end of a job."""
    for name in ("pending", "running", "ended"):
        jobs.submit(name)
    jobs.open("running")
    jobs.end("ended")
    store.index.mark_ended(["pending", "running", "ended"])
    assert sorted(store.index.live()) == ["pending", "running"]
    assert store.client.zrange(store.keys.ended, 0, -1) == [b"ended"]


def test_the_entries_of_a_job_are_repaired_from_its_record(store: Store, jobs: Jobs) -> None:
    """Whatever a crash or a race of two writers has left."""
    client, keys = store.client, store.keys
    for name in ("running", "restarted", "ended", "unmarked"):
        jobs.submit(name)
    for name in ("ended", "unmarked"):
        jobs.end(name)
    store.index.mark_ended(["ended"])
    before = client.zscore(keys.ended, "ended")
    client.srem(keys.live, "running", "unmarked")
    client.zadd(keys.ended, {"restarted": 1})
    client.zrem(keys.ended, "unmarked")
    client.sadd(keys.live, "ended")
    client.zadd(keys.jobs, {"ghost": 1, "submitted just now": store.now_ms()})
    assert sweeper(store).tick()
    assert sorted(store.index.live()) == ["restarted", "running"]
    over = dict(client.zrange(keys.ended, 0, -1, withscores=True))
    assert over.keys() == {b"ended", b"unmarked"}
    assert over[b"ended"] == before, "its retention does not begin again"
    assert 0 < over[b"unmarked"] - store.now_ms() <= 3_600_000
    assert sorted(store.index.range(0, 9)) == ["ended", "restarted", "running", "submitted just now", "unmarked"]


def test_more_entries_than_a_repair_compares_are_repaired_in_turn(
    store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PAGE", 2), ("COMPARED", 4), ("RECORDS", 1), ("REPAIR_S", 0)):
        monkeypatch.setattr(sweeper_module, name, value)
    for name in "abcdefg":
        jobs.submit(name)
    one = sweeper(store)
    assert one.tick(), "a first sweep looks at every job, and puts each back"
    for _ in range(3):
        for name in "abcdefg":
            store.client.srem(store.keys.live, name)
        assert one.tick()
        found = store.index.live()
        assert len(found) < 7
        assert one.tick()
        assert {*found, *store.index.live()} == {*"abcdefg"}


def test_a_submission_of_an_ended_job_does_not_hide_its_retry(store: Store, jobs: Jobs) -> None:
    """The retry begins after the submission has read that the job ended."""
    jobs.submit("j")
    jobs.end("j", JobStatus.FAILED)
    store.index.mark_ended(["j"])
    create = store.scripts.create

    def and_retry(*args: Any, **options: Any) -> Any:
        found = create(*args, **options)
        store.scripts.retry(jobs.ref("j"), b"{}", ["a", "x", "join"], "", [])
        store.index.mark_live("j")
        return found

    store.scripts.create = and_retry  # type: ignore[method-assign]
    jobs.submit("j")
    assert store.index.live() == ["j"]


def test_a_job_that_is_deleted_before_it_is_marked_ended_is_in_no_index(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.end("j")
    assert store.delete("j", ["a", "x", "join"]) is True
    assert store.index.live() == []


def test_a_job_that_was_deleted_before_it_is_marked_ended_leaves_nothing(store: Store, jobs: Jobs) -> None:
    """The worker that ended the job marks it a little later."""
    jobs.submit("j")
    jobs.end("j")
    store.delete("j", ["a", "x", "join"])
    store.index.mark_ended(["j"])
    assert store.client.exists(store.keys.jobs, store.keys.live, store.keys.ended) == 0


def test_a_job_that_is_submitted_again_keeps_its_place(make_store: Callable[..., Store], store: Store) -> None:
    for at, name in enumerate(("first", "second", "first")):
        Jobs(make_store(clock=lambda at=at: 1_700_000_000_000 + at)).submit(name)
    assert [job["job_id"] for job in store.jobs()] == ["second", "first"]


def test_the_bundles_of_more_jobs_than_a_page_are_found(
    store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirrorneuron.store.job_index.PAGE", 2)
    for name in "abcde":
        jobs.submit(name, graph_id=name)
    assert store.index.digests([*"abcde"]) == {jobs.ref(name).digest for name in "abcde"}


def test_a_job_that_cannot_be_indexed_is_an_error(store: Store, jobs: Jobs) -> None:
    """Without an index entry the job would not be listed or swept."""
    store.client.set(store.keys.jobs, "not a set")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        jobs.submit("j")


def test_one_sweeper_holds_the_lease_until_it_is_over(store: Store) -> None:
    assert store.sweep_lease.take("one", 600_000).held is True
    assert store.sweep_lease.take("two", 600_000).held is False
    assert store.sweep_lease.take("one", 1_200_000).held is True
    assert store.client.pttl(store.keys.sweeper) > 600_000, "it was renewed"
    store.client.delete(store.keys.sweeper)  # its lease is over
    assert store.sweep_lease.take("two", 600_000).held is True
    assert 0 < store.client.pttl(store.keys.sweeper) <= 600_000
    assert store.sweep_lease.take("one", 600_000).held is False


def test_a_sweeper_without_the_lease_does_not_sweep(store: Store, jobs: Jobs) -> None:
    jobs.submit("j")
    jobs.end("j")
    store.sweep_lease.take("another", 600_000)
    assert sweeper(store).tick() is False
    assert store.index.live() == ["j"]


def test_taking_the_lease_returns_the_time_of_the_last_sweep(make_store: Callable[..., Store]) -> None:
    now = [1_700_000_000_000]
    store = make_store(clock=lambda: now[0])
    assert store.sweep_lease.take("one", 60_000) == (True, now[0], None)
    now[0] += 7_000
    assert store.sweep_lease.take("two", 60_000) == (False, now[0], now[0] - 7_000)
    assert store.sweep_lease.take("one", 60_000) == (True, now[0], now[0] - 7_000)


def test_cleanup_counts_the_age_of_a_job_from_its_end(
    settings: Settings, make_store: Callable[..., Store], store: Store
) -> None:
    """A job that was submitted long ago may have ended just now."""
    for name, days in (("old", 3), ("long", 0)):
        jobs = Jobs(make_store(clock=lambda: store.now_ms() - 5 * DAY_MS))
        jobs.submit(name)
        jobs = Jobs(make_store(clock=lambda days=days: store.now_ms() - days * DAY_MS))
        jobs.end(name)
    Jobs(store).submit("live")
    client = Client(settings)
    assert client.cleanup_jobs(older_than=timedelta(days=1)) == ["old"]
    assert client.cleanup_jobs(all=True, older_than=timedelta(days=1)) == []
    assert sorted(client.cleanup_jobs(all=True)) == ["live", "long"]


@pytest.mark.parametrize("commands", range(6))
def test_a_job_that_is_retried_while_it_is_deleted_is_kept_or_deleted_as_a_whole(
    store: Store, make_store: Callable[..., Store], jobs: Jobs, monkeypatch: pytest.MonkeyPatch, commands: int
) -> None:
    """The retry comes after the deletion has sent *commands* commands."""
    jobs.submit("j")
    jobs.end("j", JobStatus.CANCELLED)
    other = make_store()
    ask, left = store.client.execute_command, iter(range(commands))

    def asked(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            monkeypatch.undo()
            ref = other.ref("j")
            if ref and other.scripts.retry(ref, b"{}", ["a", "x", "join"], "", [])[0].word is ReplyCode.SETTLED:
                other.index.mark_live("j")
        return ask(*args, **options)

    monkeypatch.setattr(store.client, "execute_command", asked)
    deleted = store.delete("j", ["a", "x", "join"])
    kept = [] if deleted else ["j"]
    assert [job["job_id"] for job in store.jobs()] == store.index.live() == kept
    assert leaked_keys(store) == []
    assert store.client.llen(store.keys.mail("j", "a")) == len(kept)


@pytest.mark.parametrize("forget", ["remove", "forget_orphan", "forget_expired"])
def test_a_job_that_is_submitted_again_while_its_old_entries_are_removed_stays_listed(
    store: Store, make_store: Callable[..., Store], jobs: Jobs, monkeypatch: pytest.MonkeyPatch, forget: str
) -> None:
    """The submission comes just before the first of the old entries is removed."""
    jobs.submit("j")
    jobs.end("j")
    store.index.mark_ended(["j"])
    store.client.delete(store.keys.job("j"))
    later = make_store(clock=lambda: jobs.store.now_ms() + 2 * HOUR_MS)
    ask, pipeline = later.client.execute_command, later.client.pipeline

    def submitting(command: Any) -> None:
        if command == "ZREM":
            monkeypatch.undo()
            jobs.submit("j")

    def asked(*args: Any, **options: Any) -> Any:
        submitting(args[0])
        return ask(*args, **options)

    def piped(*args: Any, **options: Any) -> Any:
        made = pipeline(*args, **options)
        queue = made.execute_command

        def queued(*args: Any, **options: Any) -> Any:
            submitting(args[0])
            return queue(*args, **options)

        made.execute_command = queued
        return made

    monkeypatch.setattr(later.client, "execute_command", asked)
    monkeypatch.setattr(later.client, "pipeline", piped)
    {
        "remove": lambda: later.index.remove("j"),
        "forget_orphan": lambda: later.index.forget_orphan("j", 60_000),
        "forget_expired": later.index.forget_expired,
    }[forget]()
    assert store.index.live() == ["j"]
    assert [job["job_id"] for job in store.jobs()] == ["j"]


def test_a_busy_server_does_not_hide_the_bundles_of_jobs(own_server: ValkeyServer) -> None:
    """A long script blocks the server. A clean-up must not take the bundles of jobs for unused and let them expire."""
    store, other = Store(Settings(redis_url=own_server.url), retries=0), connect(own_server.url)
    Jobs(store).submit("j")
    digests = store.index.digests(["j"])
    assert digests
    own_server.client.config_set("busy-reply-threshold", 1)
    with ThreadPoolExecutor(1) as pool:
        blocking = pool.submit(other.eval, "while true do end", 0)
        try:
            wait_until(lambda: raises(ResponseError, own_server.client.ping))
            with pytest.raises(Refused):
                store.index.digests(["j"])
        finally:
            own_server.client.script_kill()
        assert isinstance(blocking.exception(), ResponseError)
    assert store.index.digests(["j"]) == digests
    other.close()
    store.client.close()


def raises(kind: type[Exception], act: Callable[[], Any]) -> bool:
    try:
        act()
    except kind:
        return True
    return False
