"""How the time of a wide fan of routers grows, and whether the widest job that is allowed runs to its end."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import graphs, harness, ours
from benchmarks.row import Row, at_least, at_most
from benchmarks.size import Size
from mirrorneuron import Client, JobBundle

GROWTH = 1.2  # the time for one router of a fan ten times as wide


def rows(size: Size) -> Iterator[Row]:
    few, many, most = size.routers
    with harness.server() as url, ours.node(url) as node:
        small, large = graphs.router_fan(few), graphs.router_fan(many)
        run(node.client, small), run(node.client, large)  # warm up: plans, scripts, connections
        times = harness.alternate(
            size.rounds,
            lambda: harness.seconds(lambda: run(node.client, small)),
            lambda: harness.seconds(lambda: run(node.client, large)),
        )
        short, long = (harness.median(side) for side in times)
        narrow, wide = f"{few:,} routers", f"{many:,} routers"
        goals = (at_most(GROWTH * many / few, narrow),)
        yield Row("fan of routers", "s", {wide: long, narrow: short}, goals)
        yield widest(node.client, most)


def run(client: Client, bundle: JobBundle) -> None:
    _, job = client.run_manifest(job_bundle=bundle, await_=True, timeout=300_000)
    assert job["status"] == "completed", job
    assert job["result"] is not None


def widest(client: Client, width: int) -> Row:
    watch = harness.stopwatch()
    _, job = client.run_manifest(job_bundle=graphs.router_fan(width), await_=True, timeout=900_000)
    error = (job["result"] or {}).get("error", "")
    note = f"{job['status']} after {watch():.0f} s{f': {error}' if error else ''}"[:300]
    ended = float(job["status"] == "completed")
    return Row(f"a fan of {width:,} routers completes", "jobs of 1", {"MirrorNeuron": ended}, (at_least(1),), note=note)
