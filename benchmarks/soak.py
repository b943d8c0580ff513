"""Mixed jobs for a long time, with a kill every few seconds: no message may be lost, and memory and keys may not grow.

    python -m benchmarks.soak [--minutes 5] [--jobs-per-minute 100] [--seed 1]

The server's memory and keys are measured after a short warm-up and again after the long part, each time with all jobs
deleted. Exits with 1 if there was a violation or if they have grown.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from benchmarks import harness
from mirrorneuron import Client
from mirrorneuron.chaos import schedule
from mirrorneuron.chaos.driver import Driver, Progress, Report
from mirrorneuron.chaos.schedule import Kind
from mirrorneuron.chaos.stage import Stage, raised
from mirrorneuron.cli.commands.chaos import NODE

WEIGHTS = {Kind.WORKER: 4, Kind.CHILD: 3, Kind.NODE: 1}  # not the server: its memory is measured
WARM_UP_MINUTES = 0.5
EXPIRED_S = 90  # by then, the keys that remember claims and commits have expired
NOISE_BYTES = 512 * 1024


@dataclass(frozen=True)
class Kept:
    """What the server stores when all jobs are deleted."""

    bytes: int  #: without the buffers of clients and of the append-only file
    keys: int


class MinuteLog:
    """Prints the progress once a minute."""

    def __init__(self) -> None:
        self._minute = 0

    def note(self, _text: str, /) -> None:
        pass

    def look(self, progress: Progress) -> None:
        if progress.elapsed_s // 60 > self._minute:
            self._minute = int(progress.elapsed_s // 60)
            print(f"{self._minute:>4} min: {progress.ended} jobs ended, {progress.kills.total()} kills", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--jobs-per-minute", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with raised(NODE) as stage:
        soaked(stage, "warm-up", options.seed, WARM_UP_MINUTES, options.jobs_per_minute)
        before = cleaned(stage)
        report = soaked(stage, "soak", options.seed, options.minutes, options.jobs_per_minute)
        after = cleaned(stage)
    return show(report, before, after)


def soaked(stage: Stage, name: str, seed: int, minutes: float, per_minute: int) -> Report:
    planned = schedule.plan(seed, max(1, round(minutes * per_minute)), minutes, WEIGHTS)
    return Driver(stage, planned, MinuteLog(), name=name).run()


def cleaned(stage: Stage) -> Kept:
    """Delete all jobs, wait until their last keys have expired, and measure what is left."""
    Client(stage.settings).cleanup_jobs()
    server, ns = stage.store.client, stage.settings.redis_namespace
    harness.until(lambda: not list(server.scan_iter(f"{ns}:job:*", count=1000)), EXPIRED_S)
    server.memory_purge()
    memory = server.info("memory")
    return Kept(memory["used_memory"] - memory["mem_clients_normal"] - memory["mem_aof_buffer"], server.dbsize())


def show(report: Report, before: Kept, after: Kept) -> int:
    growth = after.bytes - before.bytes
    print(f"{'jobs':<12} {report.schedule.jobs}")
    print(f"{'kills':<12} {report.kills.total()} ({', '.join(f'{n} {kind}' for kind, n in report.kills.items())})")
    print(f"{'re-runs':<12} {report.reruns}")
    print(f"{'violations':<12} {len(report.violations)} (goal: 0)")
    print(f"{'memory':<12} {before.bytes} -> {after.bytes} bytes: {growth:+} (goal: at most {NOISE_BYTES:+})")
    print(f"{'keys':<12} {before.keys} -> {after.keys} (goal: no more)")
    for violation in report.violations:
        print(violation, file=sys.stderr)
    return int(bool(report.violations) or growth > NOISE_BYTES or after.keys > before.keys)


if __name__ == "__main__":
    sys.exit(main())
