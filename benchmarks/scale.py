"""How the time of a fan-out grows: 1,000 and 10,000 routers into one aggregator, on the same two workers.

    python -m benchmarks.scale [--rounds 3]

Prints medians and their ratio (goal: at most 12). Exits with 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import harness
from benchmarks.vs_celery import fan_out
from mirrorneuron import Client, JobBundle, Settings, validate_manifest

SMALL, LARGE, GOAL = 1_000, 10_000, 12.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with harness.server() as url, harness.workers("workers", {"MIRROR_NEURON_REDIS_URL": url}):
        client = Client(Settings.load(redis_url=url))
        small, large = validate_manifest(fan_out(SMALL)), validate_manifest(fan_out(LARGE))
        run(client, small), run(client, large)  # warm up: plans, scripts, connections
        times = harness.alternate(
            rounds,
            lambda: harness.seconds(lambda: run(client, small)),
            lambda: harness.seconds(lambda: run(client, large)),
        )
    few, many = (harness.median(side) for side in times)
    print(f"{SMALL:>7,} routers {few * 1000:9.1f} ms")
    print(f"{LARGE:>7,} routers {many * 1000:9.1f} ms   ratio {many / few:.2f} (goal: at most {GOAL:g})")
    return 0 if many / few <= GOAL else 1


def run(client: Client, bundle: JobBundle) -> None:
    _, job = client.run_manifest(job_bundle=bundle, await_=True, timeout=300_000)
    assert job["status"] == "completed", job
    assert job["result"] is not None


if __name__ == "__main__":
    sys.exit(main())
