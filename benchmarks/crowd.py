"""Many at a time: live jobs that need nothing, and waits in one process."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial

from redis import Redis

from benchmarks import graphs, harness, ours
from benchmarks.node import watched
from benchmarks.row import Row, at_most
from benchmarks.size import Size
from mirrorneuron import Client, Settings, aio
from mirrorneuron.store.keys import Keys

NONE = "without live jobs"
QUEUED_S = 900  # for the node to open all jobs
WAITS_S = 120
END_ALL = """
import sys, mirrorneuron
client = mirrorneuron.Client(mirrorneuron.Settings.load(redis_url=sys.argv[1]))
for job_id in sys.argv[2:]:
    client.cancel(job_id)
"""


def rows(size: Size) -> Iterator[Row]:
    with harness.server() as url:
        yield waits(url, size)
    with harness.server() as url, ours.node(url) as node:
        yield from live_jobs(node.client, node.pid, size)


def live_jobs(client: Client, node_pid: int, size: Size) -> Iterator[Row]:
    """What a node does for jobs that wait for a message: nothing should grow with their number."""
    client.run_manifest(job_bundle=graphs.python_chain(), await_=True)
    few = watched(client, node_pid, size.watch_s)
    bundle = graphs.waiting()
    ids = [client.run_manifest(job_bundle=bundle) for _ in range(size.live_jobs)]
    for job_id in ids:
        harness.until(partial(_runs, client, job_id), QUEUED_S)
    harness.until(partial(_is_quiet, client), QUEUED_S)
    many = watched(client, node_pid, size.watch_s)
    name = f"a node with {size.live_jobs:,} live jobs that need nothing"
    for unit, much, little in zip(("commands/s", "% of a core"), many, few, strict=True):
        goals = (at_most(1.5, NONE),) if unit == "commands/s" else ()
        yield Row(name, unit, {"MirrorNeuron": much, NONE: little}, goals)


def _runs(client: Client, job_id: str) -> bool:
    return client.inspect_job(job_id)["status"] == "running"


def _is_quiet(client: Client) -> bool:
    """The sweeper has looked at each job once."""
    url, keys = client.settings.redis_url, Keys(client.settings.redis_namespace)
    return int(Redis.from_url(url).zcount(keys.due, "-inf", 1_000 * time.time() + 60_000)) == 0


def waits(url: str, size: Size) -> Row:
    """Lags of many waits of one process, while another process ends their jobs one after the other. No node runs."""
    client = Client(Settings.load(redis_url=url))
    bundle = graphs.waiting()
    ids = [client.run_manifest(job_bundle=bundle) for _ in range(size.waiters)]
    lags = sorted(asyncio.run(_lags(url, ids)))
    worst = 1000 * lags[math.ceil(0.99 * len(lags)) - 1]
    note = "from `finished_at`, a time of the server with milliseconds, to the return of `aio.Client.wait_for_job`"
    return Row(
        f"lag of {size.waiters:,} waits in one process, p99", "ms", {"MirrorNeuron": worst}, (at_most(100),), note=note
    )


async def _lags(url: str, ids: list[str]) -> list[float]:
    """Seconds between the end of each job and the end of its wait."""
    client = aio.Client(Settings.load(redis_url=url))

    async def lag(job_id: str) -> float:
        job = await client.wait_for_job(job_id)
        assert job["finished_at"] is not None
        return time.time() - datetime.fromisoformat(job["finished_at"]).timestamp()

    tasks = [asyncio.create_task(lag(job_id)) for job_id in ids]
    await asyncio.sleep(0)  # each wait has begun
    with subprocess.Popen([sys.executable, "-c", END_ALL, url, *ids], cwd=harness.ROOT):
        return await asyncio.wait_for(asyncio.gather(*tasks), WAITS_S)
