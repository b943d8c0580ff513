"""When the sweeper looks at a job, in simulated time: late if nothing can happen, in time for whatever is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.job import JobStatus
from mirrorneuron.pools import queue
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import ASKED
from mirrorneuron.store.look_schedule import FIRST_LOOK_MS, claim_bound_ms
from mirrorneuron.store.protocol import Step, new_token
from tests.support.store import Jobs
from workers.recovery import sweeper
from workers.recovery.sweeper import Sweeper

NOON_MS = 1_700_000_000_000
TICK_S = 1
X = {"initial_inputs": {"x": [1]}, "entrypoints": ["x"]}
ANY_X = (("default", 1),)


class World:
    """A store and one sweeper, which sweeps each second of a simulated time."""

    def __init__(self, make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOON_MS
        self.store = make_store(clock=lambda: self.now)
        self.jobs = Jobs(self.store)
        self.looks: Counter[str] = Counter()
        self.lease_ms = self.store.settings.claim_lease_ms
        self._sweep_all = self.store.scripts.sweep_all
        monkeypatch.setattr(self.store.scripts, "sweep_all", self._counted)
        monkeypatch.setattr(sweeper, "time", SimpleNamespace(monotonic=lambda: self.now / 1_000))
        self.sweeper = self.another_sweeper()
        self.tick()

    def another_sweeper(self) -> Sweeper:
        return Sweeper(self.store, make_app(self.store.settings), lambda digest: self.store.plan(digest)[0])

    def _counted(self, job_ids: list[str], **options: Any) -> Any:
        self.looks.update(job_ids)
        return self._sweep_all(job_ids, **options)

    def tick(self) -> None:
        self.store.client.pexpire(self.store.keys.sweeper, 60_000)  # the lease is in real time
        assert self.sweeper.tick()

    def sweep_for(self, seconds: float, until: Callable[[], Any] | None = None) -> float:
        """Sweep each second until the fact holds. Returns the seconds that this took; fails after *seconds*."""
        began = self.now
        while self.now < began + 1_000 * seconds:
            self.now += 1_000 * TICK_S
            self.tick()
            if until and until():
                return (self.now - began) / 1_000
        assert until is None
        return seconds

    def claimed(self, job_id: str = "j", **changes: Any) -> str:
        """Submit a job and claim its agent x. Returns the token."""
        self.jobs.submit(job_id, **{**X, **changes})
        self.jobs.open(job_id)
        token = new_token()
        assert self.store.scripts.claim(self.jobs.ref(job_id), token, ANY_X).claims
        return token

    def idle(self, job_id: str = "j", **policies: Any) -> None:
        """Submit a job that waits for messages, and let the sweeper see that."""
        self.jobs.submit(job_id, entrypoints=["join"], policies={"on_idle": "wait", **policies})
        self.jobs.open(job_id)

    def queued(self, pool: str) -> int:
        return int(self.store.client.llen(queue(self.store.settings.redis_namespace, pool)))

    def status(self, job_id: str = "j") -> str:
        return self.store.known_job(job_id)["status"]


@pytest.fixture
def world(make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> World:
    return World(make_store, monkeypatch)


def test_a_job_that_waits_for_a_message_is_not_looked_at(world: World) -> None:
    world.idle()
    world.sweep_for(10)
    assert world.status() == "running"
    assert world.looks.pop("j") <= 2, "one settles it, one finds that nothing is left to do"
    world.sweep_for(300)
    assert not world.looks


def test_a_claim_that_is_renewed_is_looked_at_once_in_a_lease(world: World) -> None:
    token, lease_s = world.claimed(), world.lease_ms / 1_000
    world.sweep_for(10)
    world.looks.clear()
    for _ in range(30):
        world.sweep_for(lease_s / 3)
        world.store.scripts.renew(world.jobs.ref("j"), token, ["x"])
    assert world.looks["j"] <= 15, "a renewed claim ends 4 s to 6 s later"


@pytest.mark.parametrize("after_s", range(0, 30, 3))
def test_a_claim_that_is_lost_is_freed_within_two_leases(world: World, after_s: int) -> None:
    """Whenever the worker claims the agent, in the time between two looks at a job that waits longer and longer."""
    world.jobs.submit("j", **X)
    world.jobs.open("j")
    for _ in range(FIRST_LOOK_MS // 1_000 + after_s):  # the queue is empty whenever the sweeper looks
        world.sweep_for(1)
        world.store.client.delete(queue(world.store.settings.redis_namespace, "default"))
    world.store.scripts.claim(world.jobs.ref("j"), "t", ANY_X)
    freed = world.sweep_for(2 * world.lease_ms / 1_000, lambda: not world.store.activity.claimed_agents("j"))
    assert freed <= claim_bound_ms(world.lease_ms) / 1_000 + TICK_S


def test_a_submission_whose_announcement_is_lost_is_announced(world: World) -> None:
    world.jobs.submit("j", **X)
    assert world.sweep_for(20, lambda: world.queued("default")) <= 5 + TICK_S


def test_a_message_whose_announcement_is_lost_is_announced(world: World) -> None:
    world.idle()
    world.sweep_for(60)
    assert world.store.scripts.deliver("j", "x", "id", b"{}").status == "running"
    assert world.sweep_for(20, lambda: world.queued("default")) <= 5 + TICK_S


def test_what_is_ready_in_a_resumed_job_is_announced_from_the_resumption_on(world: World) -> None:
    world.jobs.submit("j", **X)
    world.jobs.open("j")
    world.store.scripts.pause_resume("j", JobStatus.PAUSED, b"")
    world.sweep_for(120)
    assert not world.queued("default")
    assert world.looks.total() <= 2
    world.store.scripts.pause_resume("j", JobStatus.RUNNING, b"")
    assert 5 <= world.sweep_for(20, lambda: world.queued("default")) <= 5 + TICK_S


def test_an_agent_that_waits_for_its_retry_is_announced_when_that_is_overdue(world: World) -> None:
    token, delay_s = world.claimed(), 90
    world.store.scripts.commit(world.jobs.ref("j"), token, [Step("x", attempts=1, delay_ms=1_000 * delay_s)], "next")
    world.sweep_for(10)
    world.looks.clear()
    world.sweep_for(delay_s - 12)
    assert not world.looks
    assert world.sweep_for(20, lambda: world.queued("default")) <= 12 - 10 + 5 + 2 * TICK_S


@pytest.mark.parametrize("limit_ms", [500, 3_000, 60_000])
def test_a_job_that_is_too_old_fails_in_time(world: World, limit_ms: int) -> None:
    world.jobs.submit("j", policies={"job_timeout_ms": limit_ms})
    assert world.sweep_for(90, lambda: world.status() == "failed") <= limit_ms / 1_000 + TICK_S


@pytest.mark.parametrize("limit_ms", [500, 3_000, 60_000])
def test_a_job_that_is_idle_for_too_long_fails_in_time(world: World, limit_ms: int) -> None:
    """Although a worker has settled it, and the sweeper was not asked to look."""
    token = world.claimed(policies={"on_idle": "wait", "idle_timeout_ms": limit_ms})
    world.sweep_for(2)
    step = Step("x", consumed=1, processed=1)
    reply = world.store.scripts.commit(world.jobs.ref("j"), token, [step], new_token())
    world.store.scripts.settle(world.jobs.ref("j"), reply.revision, None)
    assert world.sweep_for(90, lambda: world.status() == "failed") <= limit_ms / 1_000 + TICK_S


def test_a_retry_whose_producer_has_died_is_announced(world: World) -> None:
    """It died after the change, when another process had marked the earlier run as ended meanwhile."""
    world.jobs.submit("j", **X)
    world.jobs.end("j", JobStatus.CANCELLED)
    world.store.index.mark_live("j")
    world.store.index.mark_ended(["j"])
    world.store.scripts.retry(world.jobs.ref("j"), b"{}", ["a", "x", "join"], "", [])
    assert world.store.index.live() == []
    assert world.sweep_for(20, lambda: world.queued("default")) <= 5 + TICK_S
    assert world.store.index.live() == ["j"]


def test_a_cancellation_whose_producer_has_died_leaves_the_live_index(world: World) -> None:
    world.idle()
    world.sweep_for(60)
    world.jobs.end("j", JobStatus.CANCELLED)
    world.sweep_for(5, lambda: not world.store.index.live())


def test_live_jobs_of_an_earlier_version_are_looked_at(world: World) -> None:
    """They are in the live index alone. A producer of that version may add more while sweepers of this one sweep."""
    world.jobs.submit("j", **X)
    world.store.client.delete(world.store.keys.due)
    assert world.sweep_for(90, lambda: world.queued("default")) <= sweeper.REPAIR_S + TICK_S


def test_each_live_job_is_looked_at_when_the_clock_was_set_back(world: World) -> None:
    world.idle()
    world.sweep_for(60)
    world.looks.clear()
    world.now -= 600_000
    world.tick()
    assert world.looks == {"j": 1}


def test_a_change_that_comes_right_after_a_look_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look has found nothing to do. What it sets as the next moment must not hide the change."""
    world.idle()
    world.sweep_for(20)
    world.store.index.mark_live("j")  # due
    sweep_all = world.store.scripts.sweep_all

    def and_then(job_ids: list[str], **options: Any) -> Any:
        replies = sweep_all(job_ids, **options)
        world.store.scripts.deliver("j", "x", "id", b"{}")
        monkeypatch.setattr(world.store.scripts, "sweep_all", sweep_all)
        return replies

    monkeypatch.setattr(world.store.scripts, "sweep_all", and_then)
    world.tick()
    assert world.sweep_for(20, lambda: world.queued("default")) <= 5 + TICK_S


def test_a_change_that_was_asked_for_before_a_look_and_made_after_it_is_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.idle()
    world.sweep_for(20)
    world.store.index.mark_live("j")
    world.store.client.zadd(world.store.keys.due, {ASKED + "j": 0})
    sweep_all = world.store.scripts.sweep_all

    def and_then(job_ids: list[str], **options: Any) -> Any:
        replies = sweep_all(job_ids, **options)
        world.store.scripts._call("deliver", "j", [world.now, "x", "id", b"{}", 9, "", 2**20])
        monkeypatch.setattr(world.store.scripts, "sweep_all", sweep_all)
        return replies

    monkeypatch.setattr(world.store.scripts, "sweep_all", and_then)
    world.tick()
    assert world.sweep_for(20, lambda: world.queued("default")) <= 5 + TICK_S


def test_a_long_queue_gets_no_duplicates_from_jobs_that_do_not_wait_for_it(world: World) -> None:
    """One job waits for the pool, and its task is in the queue. The others run, or wait for messages."""
    tokens = {name: world.claimed(name) for name in "abcdefgh"}
    for name in "klmnopqr":
        world.idle(name)
    world.jobs.submit("j", **X)
    world.store.client.lpush(queue(world.store.settings.redis_namespace, "default"), "its task")
    for _ in range(40):
        world.sweep_for(1)
        for name, token in tokens.items():
            world.store.scripts.renew(world.jobs.ref(name), token, ["x"])
    assert world.queued("default") == 1


def test_a_sweeper_mends_what_one_that_died_had_left_of_a_clock_that_was_set_back(world: World) -> None:
    """The dead one had noticed the step, and marked its sweep with the new time, but had swept nothing yet."""
    world.jobs.submit("j", **X)
    world.jobs.open("j")
    world.now -= 600_000
    world.store.client.set(world.store.keys.swept, world.now)
    world.store.client.delete(world.store.keys.sweeper)
    world.sweeper = world.another_sweeper()
    world.tick()
    assert world.store.scripts.claim(world.jobs.ref("j"), new_token(), ANY_X).claims
