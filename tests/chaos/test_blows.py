"""Blows that are undone later: each has its effect, what it undoes works again, and its loss would be reported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import redis

from mirrorneuron.api.client import Client
from mirrorneuron.chaos import clock, descriptors, invariants, producer
from mirrorneuron.chaos.blows import STEP_S, Blows
from mirrorneuron.chaos.driver import STUCK_S
from mirrorneuron.chaos.graphs import Graph, all_graphs
from mirrorneuron.chaos.invariants import Flaw
from mirrorneuron.chaos.producer import Order
from mirrorneuron.chaos.repairs import Repairs
from mirrorneuron.chaos.schedule import Kind, Strike
from mirrorneuron.chaos.stage import Stage
from tests.chaos.conftest import ahead_s
from tests.support.waiting import wait_until

GRAPHS = {graph.name: graph for graph in all_graphs()}
on_linux = pytest.mark.skipif(not descriptors.POSSIBLE, reason="limits of another process are set by a call of Linux")


class Fight:
    """Blows on *stage*, and the jobs that they may hit. Repairs are made only by `mend`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.client = Client(stage.settings)
        self.jobs: dict[str, Graph] = {}
        self.repairs = Repairs()
        self.blows = Blows(stage, "blow", self.jobs, self.repairs)
        self._orders: list[Order] = []
        producer.write_orders(stage.folder, [])

    def submit(self, job_id: str, graph: str) -> None:
        """Submit a job as the producer does."""
        bundle = GRAPHS[graph].write(self.stage.folder / "bundles")
        self.jobs[job_id] = GRAPHS[graph]
        self._orders.append(Order(job_id=job_id, bundle=bundle, due_at_s=0, feed=GRAPHS[graph].feed))
        done = producer.submitted(self.stage.folder)
        producer.write_orders(self.stage.folder, self._orders)
        (self.stage.folder / "submitted").write_text("".join(f"{each}\n" for each in done))
        producer.produce(self.client, self.stage.folder)

    def hit(self, kind: Kind, which: int) -> str:
        return self.blows.hit(Strike(0, kind, which))

    def mend(self) -> list[object]:
        """Make all repairs, each when it is due, and return what they say."""
        said: list[object] = []
        while self.repairs:
            said += [repair() for repair in self.repairs.take_due()]
            time.sleep(0.01)
        return said

    def flaws(self, job_id: str) -> list[Flaw]:
        return [found.flaw for found in invariants.of_job(self.stage.store, job_id, self.jobs[job_id].expected)]

    def end(self) -> None:
        """Wait until all jobs have ended well."""
        for job_id in self.jobs:
            self.client.wait_for_job(job_id, timeout=60_000)
            assert self.flaws(job_id) == []


@pytest.fixture
def fight(stage: Stage) -> Iterator[Fight]:
    made = Fight(stage)
    yield made
    made.client.cleanup_jobs(all=True)


def test_what_an_older_store_has_lost_is_reported_until_it_is_submitted_and_sent_again(fight: Fight):
    """One job was submitted before the copy of the data, one after it; a third got only its messages after it."""
    stage = fight.stage
    fight.submit("kept", "chain")
    fight.client.run_manifest(GRAPHS["fed"].write(stage.folder / "bundles"), job_id="fed")
    assert "goes back" in fight.hit(Kind.TRAVEL, 0)
    assert fight.hit(Kind.TRAVEL, 0) == "", "one at a time"
    assert fight.hit(Kind.FEED, 0)
    fight.submit("gone", "chain")
    fight.submit("fed", "fed")
    assert "froze" in fight.hit(Kind.FREEZE, 300)  # the server goes back once it answers
    said = fight.mend()
    assert "the server has its older data: 1 job of 3 to be submitted again" in said
    assert fight.blows.resubmitted == 1
    assert producer.submitted(stage.folder) == {"kept"}
    assert fight.flaws("gone") == [Flaw.LOST]
    assert Flaw.STUCK in fight.flaws("fed")
    producer.produce(fight.client, stage.folder)
    (feed,) = fight.blows.feeds
    assert wait_until(lambda: fight.blows.go_on() or feed.over)
    fight.client.wait_for_job(feed.job_id, timeout=60_000)
    assert invariants.of_job(stage.store, feed.job_id, feed.expected) == []
    fight.end()


@pytest.mark.skipif(clock.library() is None, reason=clock.MISSING)
@pytest.mark.parametrize("which", [0, 1])
def test_jobs_and_waits_end_after_a_step_of_the_clock(fight: Fight, which: int):
    """The step is so long that what waits for the server's clock to come back is reported as stuck."""
    before = ahead_s(fight.stage.server.url)
    fight.client.run_manifest(GRAPHS["fed"].write(fight.stage.folder / "bundles"), job_id="stepped")
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(fight.client.wait_for_job, "stepped", 60_000)
        wait_until(lambda: fight.stage.store.client.pubsub_numsub("celery-task-meta-stepped")[0][1])
        assert fight.hit(Kind.CLOCK, which)
        step = ahead_s(fight.stage.server.url) - before
        assert abs(step) > STEP_S[0] - 60 > STUCK_S
        assert (step > 0) == bool(which)
        fight.submit("stepped", "fed")
        assert wait.result()["status"] == "completed"
    fight.submit("later", "flaky")
    fight.end()


@pytest.mark.parametrize("which", [0, 1])
def test_a_server_refuses_writes_until_it_is_repaired(fight: Fight, which: int):
    assert "refuse writes" in fight.hit(Kind.REFUSE, which)
    assert fight.hit(Kind.REFUSE, which) == fight.hit(Kind.FEED, 0) == "", "one at a time"
    with pytest.raises(redis.ResponseError):
        redis.Redis.from_url(fight.stage.server.url).set("key", 1)
    fight.mend()
    assert fight.blows.refused()["writes"] > 0
    fight.submit("taken", "chain")
    fight.end()


@on_linux
def test_a_worker_that_can_open_no_files_runs_no_command_until_it_is_repaired(fight: Fight):
    for node in range(len(fight.stage.nodes)):
        assert "open no files" in fight.hit(Kind.REFUSE, 2 + node)
    fight.submit("refused", "flaky")
    wait_until(lambda: fight.blows.refused()["descriptors"])
    assert fight.stage.store.index.live() == ["refused"]
    fight.mend()
    for actor in fight.stage.nodes:
        most = psutil.Process(actor.pid).rlimit(psutil.RLIMIT_NOFILE)
        below = psutil.Process(actor.pid).children(recursive=True)
        assert {child.rlimit(psutil.RLIMIT_NOFILE) for child in below} == {most}
    fight.end()
