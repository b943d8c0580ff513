"""What was announced and not picked up is announced again, and a long queue is not a loss."""

from __future__ import annotations

import pytest

from mirrorneuron.app import make_app
from mirrorneuron.claim import new_token
from mirrorneuron.client import Client
from mirrorneuron.keys import LIGHT, queue
from mirrorneuron.store import Store
from tests.jobs.graphs import job_ref, line, single
from workers import sweeper
from workers.sweeper import Sweeper

JOBS = 3


@pytest.fixture
def impatient(store: Store, monkeypatch: pytest.MonkeyPatch) -> Sweeper:
    """A sweeper that takes what was not picked up by its next sweep for lost."""
    monkeypatch.setattr(sweeper, "FIRST_WAIT_MS", 0)
    return Sweeper(store, make_app(store.settings), lambda digest: store.plan(digest)[0])


def sweep_often(one: Sweeper) -> None:
    for _ in range(5):
        assert one.tick()


def test_a_backlog_breeds_no_second_one(store: Store, impatient: Sweeper) -> None:
    """Nobody opens the jobs, however long: their tasks are in the queue, and stay the only ones."""
    client = Client(store.settings)
    for _ in range(JOBS):
        client.run_manifest(line(3))
    sweep_often(impatient)
    assert store.client.llen(queue(store.settings.redis_namespace, LIGHT)) == JOBS


def test_what_the_queue_has_lost_is_announced_again_once(store: Store, impatient: Sweeper) -> None:
    client = Client(store.settings)
    for _ in range(JOBS):
        client.run_manifest(line(3))
    light = queue(store.settings.redis_namespace, LIGHT)
    store.client.delete(light)
    sweep_often(impatient)
    assert store.client.llen(light) == JOBS


def test_every_pool_has_a_queue_of_its_own(store: Store, impatient: Sweeper) -> None:
    """Tasks that wait for the light worker say nothing of those for a slot; there is one for each live job at most."""
    client = Client(store.settings)
    opened = job_ref(client, client.run_manifest(single("true")))
    for _ in range(JOBS):
        client.run_manifest(line(3))
    store.scripts.claim(opened, new_token(), [(LIGHT, 1)], opening=True)
    sweep_often(impatient)
    assert store.client.llen(queue(store.settings.redis_namespace, "default")) == 1 + JOBS
