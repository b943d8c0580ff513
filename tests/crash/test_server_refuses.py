"""The server answers and refuses: it has no memory left, or is a replica now. That passes, and is ridden out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.store.connection import Refused, connect, connect_async
from mirrorneuron.store.job_store import Store
from tests.support.crash_bundles import queued, starts
from tests.support.graphs import is_alive, kinds
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from workers.runtime import Runtime

REFUSALS = {
    "memory": (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
    "replica": (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
    "replicas": (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]),
}
WORDS = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "BUSY", "UNBLOCKED")
TIMES = 5  # that something is refused, so that whoever tries has done so
refusals = pytest.mark.parametrize("how", REFUSALS)


@pytest.fixture(scope="module")
def store_url(mortal: ValkeyServer) -> str:
    return mortal.url


@contextmanager
def refusing(server: ValkeyServer, how: str) -> Iterator[None]:
    """The server takes no writes within the block."""
    begin, end = REFUSALS[how]
    server.client.execute_command(*begin)
    try:
        yield
    finally:
        server.client.execute_command(*end)


def refused(server: ValkeyServer) -> int:
    """How many scripts it has refused."""
    return int(server.client.info("commandstats")["cmdstat_evalsha"]["failed_calls"])


def wait_for_refusals(server: ValkeyServer) -> None:
    before = refused(server)
    wait_until(lambda: refused(server) >= before + TIMES)


@refusals
def test_runs_go_on_and_no_worker_ends(
    mortal: ValkeyServer, own: RealNode, jobs: Client, tmp_path: Path, how: str
) -> None:
    """For longer than a lease; a command ends meanwhile, and its commit waits."""
    job_id = jobs.run_manifest(queued(tmp_path, 2))
    (pid,) = wait_until(lambda: starts(tmp_path))
    store, workers = Store(jobs.settings), own.pids
    with refusing(mortal, how):
        ((_, lease_ms),) = store.client.zrange(store.keys.claims(job_id), 0, -1, withscores=True)
        wait_until(lambda: store.now_ms() > lease_ms)
        (tmp_path / "gate").touch()
        wait_until(lambda: not is_alive(pid))
        wait_for_refusals(mortal)
    assert jobs.wait_for_job(job_id, timeout=60_000)["status"] == "completed"
    assert len(starts(tmp_path)) == 2
    assert "agent_recovery_started" not in kinds(jobs, job_id)
    assert own.pids == workers
    assert not any(map(own.ended, workers))
    store.client.close()


@refusals
def test_a_task_that_waits_for_it_does_not_stand_still(mortal: ValkeyServer, own: RealNode, how: str) -> None:
    """It answers a ping all the time."""
    runtime = Runtime(own.settings, "a worker")
    with refusing(mortal, how):
        assert not runtime._store_available()
    assert runtime._store_available()


@pytest.mark.parametrize("word", WORDS)
def test_each_refusal_is_known_and_tried_again(redis_url: str, word: str) -> None:
    """As a reply, of a pipeline, and to asyncio: the count says how often it was asked."""
    client, count = connect(redis_url, retries=2), f"refused:{word}"
    script = f"redis.call('INCR', KEYS[1]) return redis.error_reply('{word} not now')"
    with pytest.raises(Refused):
        client.eval(script, 1, count)
    with pytest.raises(Refused):
        client.pipeline(transaction=False).eval(script, 1, count).execute()

    async def ask() -> None:
        other = connect_async(redis_url, retries=2)
        with pytest.raises(Refused):
            await other.eval(script, 1, count)
        await other.aclose()

    asyncio.run(ask())
    assert int(client.getdel(count)) == 3 * 3
    client.close()
