"""The server refuses writes: it is out of memory or has become a replica. Clients and workers retry."""

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
TIMES = 5  # refusals to wait for, so that every part has tried
refusals = pytest.mark.parametrize("how", REFUSALS)


@pytest.fixture(scope="module")
def store_url(mortal: ValkeyServer) -> str:
    return mortal.url


@contextmanager
def refusing(server: ValkeyServer, how: str) -> Iterator[None]:
    """Make the server refuse writes within the block."""
    begin, end = REFUSALS[how]
    server.client.execute_command(*begin)
    try:
        yield
    finally:
        server.client.execute_command(*end)


def refused(server: ValkeyServer) -> int:
    """The number of scripts that the server has refused."""
    return int(server.client.info("commandstats")["cmdstat_evalsha"]["failed_calls"])


def wait_for_refusals(server: ValkeyServer) -> None:
    before = refused(server)
    wait_until(lambda: refused(server) >= before + TIMES)


@refusals
def test_runs_continue_and_no_worker_exits(
    mortal: ValkeyServer, own: RealNode, jobs: Client, tmp_path: Path, how: str
) -> None:
    """For longer than a lease. A command ends meanwhile, and its commit is retried."""
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
def test_a_task_that_waits_for_the_server_is_not_stuck(mortal: ValkeyServer, own: RealNode, how: str) -> None:
    """The server answers a ping all the time."""
    runtime = Runtime(own.settings, "a worker")
    with refusing(mortal, how):
        assert not runtime._store_available()
    assert runtime._store_available()


@pytest.mark.parametrize("word", WORDS)
def test_each_kind_of_refusal_is_recognized_and_retried(redis_url: str, word: str) -> None:
    """As a plain reply, in a pipeline, and with asyncio. The count is the number of requests."""
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
