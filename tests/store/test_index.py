"""The indexes beside the jobs: nothing that happens meanwhile takes a job off them, or leaves one on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mirrorneuron.app import make_app
from mirrorneuron.chain import Chains
from mirrorneuron.client import Client
from mirrorneuron.control import Control
from mirrorneuron.job import JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store import Store
from tests.store.conftest import Jobs
from workers.sweeper import Sweeper

HOUR_MS = 3_600_000


def sweeper(store: Store) -> Sweeper:
    return Sweeper(store, make_app(store.settings), lambda digest: store.plan(digest)[0])


def test_a_retry_is_live_although_its_last_run_is_buried_meanwhile(
    settings: Settings, store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that ended the run takes the job off the live ones a little later, and so may the sweeper."""
    jobs.submit("j")
    jobs.open("j")
    jobs.end("j", JobStatus.FAILED)
    app = make_app(settings)
    control = Control(store, lambda plan: Chains(app, settings.redis_namespace, plan))
    retry = store.scripts.retry

    def buried_meanwhile(*args: Any) -> Any:
        store.index.bury(["j"])
        return retry(*args)

    monkeypatch.setattr(store.scripts, "retry", buried_meanwhile)
    assert control.retry("j", None)["status"] == "running"
    assert store.index.live() == ["j"]
    assert store.client.zcard(store.keys.ended) == 0


def test_a_retry_whose_reply_was_lost_starts_no_second_run(store: Store, jobs: Jobs) -> None:
    """The first one's run may have ended as well by then."""
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
    jobs.store.index.bury(["j"])
    jobs.store.client.delete(jobs.store.keys.job("j"))  # its retention is over
    jobs.submit("j")
    later = make_store(clock=lambda: jobs.store.now_ms() + 2 * HOUR_MS)
    later.index.forget_expired()
    assert [job["job_id"] for job in later.jobs(live_only=True)] == ["j"]
    assert later.client.zcard(later.keys.ended) == 0


def test_pages_have_each_job_once_whatever_comes_and_goes(
    make_store: Callable[..., Store], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six jobs of three moments, by twos; between two pages one is submitted and one deleted."""
    monkeypatch.setattr("mirrorneuron.index.PAGE", 2)
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


def test_a_foreign_key_in_the_place_of_a_job_hides_no_other(settings: Settings, store: Store, jobs: Jobs) -> None:
    """Neither from those who list jobs, nor from the sweeper."""
    jobs.submit("j")
    store.client.set(store.keys.job("foreign"), "not a hash")
    store.client.zadd(store.keys.jobs, {"foreign": store.now_ms()})
    store.client.sadd(store.keys.live, "foreign")
    assert [job["job_id"] for job in Client(settings).list_jobs()] == ["j"]
    one = sweeper(store)
    assert one.tick()
    jobs.end("j")
    assert one.tick()
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
