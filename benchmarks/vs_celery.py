"""MirrorNeuron compared with plain Celery: one server and two solo workers for each, measured in turns in one run.

    python -m benchmarks.vs_celery [--rounds 5] [--jobs 300] [--width 1000]

Prints medians and their ratios, and exits with 1 if a ratio misses its goal.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from celery import chain, chord
from celery.exceptions import TimeoutError
from pydantic_core import from_json, to_json
from redis import Redis

from benchmarks import bare_celery as bare
from benchmarks import harness
from mirrorneuron import Client, Settings, validate_manifest

GOALS = {
    "jobs/s of the chain, times": (2.5, "at least"),
    "latency of the chain, times": (0.5, "at most"),
    "time of the chord, times": (0.2, "at most"),
    "terminal wait over GET + parse, times": (2.0, "at most"),
}


def fan_out(width: int) -> dict[str, Any]:
    """Return a manifest: one router sends to *width* routers, which send to one aggregator that completes the job."""
    names = [f"router-{n}" for n in range(width)]
    return {
        "manifest_version": "1.0",
        "graph_id": f"fan_out_{width}",
        "entrypoints": ["source"],
        "initial_inputs": {"source": {"number": 1}},
        "nodes": [
            {"node_id": "source", "agent_type": "router", "config": {"emit_type": "work"}},
            *({"node_id": name, "agent_type": "router", "config": {"emit_type": "done"}} for name in names),
            {"node_id": "sink", "agent_type": "aggregator", "config": {"complete_after": width}},
        ],
        "edges": [
            *({"from_node": "source", "to_node": name, "message_type": "work"} for name in names),
            *({"from_node": name, "to_node": "sink", "message_type": "done"} for name in names),
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--width", type=int, default=1000)
    options = parser.parse_args()
    with harness.server() as url:
        settings = {"BENCH_URL": url, "MIRROR_NEURON_REDIS_URL": url}
        with harness.workers("workers", settings), harness.workers("benchmarks.bare_celery", settings):
            figures = compare(url, options.rounds, options.jobs, options.width)
    missed = 0
    for name, (ours, theirs, ratio, unit) in figures.items():
        goal, word = GOALS[name]
        met = ratio >= goal if word == "at least" else ratio <= goal
        missed += not met
        mark = "met" if met else "MISSED"
        print(f"{name:<40} {ours:9.3f} {theirs:9.3f} {unit:<6} ratio {ratio:6.3f}  (goal: {word} {goal}: {mark})")
    return 1 if missed else 0


def compare(url: str, rounds: int, jobs: int, width: int) -> dict[str, tuple[float, float, float, str]]:
    """Name -> (ours, theirs, ratio, unit)."""
    peer, ours = Peer(url), Ours(url, width)
    ours.one(), peer.one(), ours.fan(), peer.chord(width)  # warm up: connections, scripts, plans
    rate = harness.alternate(rounds, lambda: ours.many(jobs), lambda: peer.many(jobs))
    latency = harness.alternate(
        rounds * 4, lambda: harness.in_a_row(10, ours.one), lambda: harness.in_a_row(10, peer.one)
    )
    wide = harness.alternate(
        rounds, lambda: harness.seconds(ours.fan), lambda: harness.seconds(lambda: peer.chord(width))
    )
    ended = ours.one()
    waits = harness.alternate(
        rounds * 200, lambda: harness.seconds(lambda: ours.wait(ended)), lambda: ours.raw_get(ended)
    )
    (a, b), (c, d), (e, f), (g, h) = ([harness.median(side) for side in pair] for pair in (rate, latency, wide, waits))
    return {
        "jobs/s of the chain, times": (jobs / a, jobs / b, b / a, "jobs/s"),
        "latency of the chain, times": (c * 1000, d * 1000, c / d, "ms"),
        "time of the chord, times": (e * 1000, f * 1000, e / f, "ms"),
        "terminal wait over GET + parse, times": (g * 1e6, h * 1e6, g / h, "us"),
    }


class Ours:
    def __init__(self, url: str, width: int) -> None:
        self.client = Client(Settings.load(redis_url=url))
        self.flow = validate_manifest(str(harness.ROOT / "examples" / "research_flow"))
        self.wide = validate_manifest(fan_out(width))
        self.raw: tuple[Any, bytes, Any] | None = None

    def one(self) -> str:
        job_id, job = self.client.run_manifest(job_bundle=self.flow, await_=True, timeout=60_000)
        assert job["status"] == "completed", job
        return job_id

    def many(self, count: int) -> float:
        def work() -> None:
            ids = [self.client.run_manifest(job_bundle=self.flow) for _ in range(count)]
            for job_id in ids:
                assert self.client.wait_for_job(job_id, timeout=60_000)["status"] == "completed"

        return harness.seconds(work)

    def fan(self) -> None:
        _, job = self.client.run_manifest(job_bundle=self.wide, await_=True, timeout=60_000)
        assert job["status"] == "completed", job

    def wait(self, job_id: str) -> None:
        self.client.wait_for_job(job_id)

    def raw_get(self, job_id: str) -> float:
        if self.raw is None:
            server = Redis.from_url(self.client.settings.redis_url)
            server.set("raw", to_json(self.client.inspect_job(job_id)))
            self.raw = (server, b"raw", from_json)
        server, key, parse = self.raw
        return harness.seconds(lambda: parse(server.get(key)))


class Peer:
    def __init__(self, url: str) -> None:
        bare.app.conf.update(broker_url=url, result_backend=url)
        query = {"query": "How do lighthouses tell sailors which one they are?", "max_sources": 3}
        self.chain = lambda: chain(bare.ingress.s(query), bare.retriever.s(), bare.reviewer.s()).apply_async()
        self.chord = lambda width: chord((bare.forward.s(n) for n in range(width)), bare.gather.s())().get(timeout=120)

    def one(self) -> None:
        wait(self.chain())

    def many(self, count: int) -> float:
        def work() -> None:
            for result in [self.chain() for _ in range(count)]:
                wait(result)

        return harness.seconds(work)


def wait(result: Any) -> None:
    """Wait with Celery's API. It misses a push once in some thousand waits; a second call finds the result."""
    try:
        result.get(timeout=2)
    except TimeoutError:
        result.get(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
