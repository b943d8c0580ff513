"""The time to recover from a dead worker: from SIGKILL of a busy worker to the start of the same run on another one.

    python -m benchmarks.recovery [--rounds 3] [--leases 6000 2000]

In every other round, the killed worker is also the one that sweeps, so that the other one has to become the sweeper
first. Prints the median and the worst time as multiples of the claim lease, and the parts of the worst one. Exits with
1 if a worst time is over the goal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks import harness
from mirrorneuron import Client, Settings
from mirrorneuron.settings import PREFIX
from mirrorneuron.store.keys import Keys

GOAL = 2.0  # claim leases
NAMES = ("one@bench", "two@bench")
AGENT = "work"
FREED = "agent_recovery_started"


@dataclass(frozen=True)
class Recovery:
    """The successive parts of one recovery, in seconds."""

    expired: float  #: from the kill to the end of the claim's lease
    freed: float  #: from there to the sweep that freed the claim
    started: float  #: from there to the start of the command

    @property
    def total(self) -> float:
        return self.expired + self.freed + self.started


def gated(folder: Path) -> dict[str, Any]:
    """Return a manifest with one command, which creates a file when it starts and ends once the file `gate` exists."""
    script = f"cd {folder}; : > started-$$; while [ ! -e gate ]; do sleep 0.02; done"
    return {
        "manifest_version": "1.0",
        "graph_id": "gated",
        "entrypoints": [AGENT],
        "nodes": [
            {
                "node_id": AGENT,
                "agent_type": "executor",
                "config": {"command": ["sh", "-c", script], "complete_job": True},
            }
        ],
    }


def starts(folder: Path) -> list[float]:
    """Return when the runs of the command started, in seconds since the epoch."""
    return sorted(file.stat().st_mtime for file in folder.glob("started-*"))


class Cluster:
    """Two workers that serve all queues. One of them is killed at a time."""

    def __init__(self, settings: Settings, fleet: harness.Workers) -> None:
        self.client = Client(settings)
        self.keys = Keys(settings.redis_namespace)
        self.server = Redis.from_url(settings.redis_url)
        self.fleet = fleet
        self.sweeper = NAMES[0]  # the first worker to start sweeps until it is killed
        for name in NAMES:
            self._start(name)

    def recovery(self, *, of_sweeper: bool) -> Recovery:
        """Kill the busy worker (the one that sweeps, if *of_sweeper*), and time the recovery on the other one."""
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            folder, other = Path(first), Path(second)
            job_id, busy = self._run(folder)
            if (busy == self.sweeper) != of_sweeper:  # the next job goes to the idle worker
                folder, other = other, folder
                unwanted, (job_id, busy) = job_id, self._run(folder)
                self._finish(unwanted, other)
            found = self._kill(busy, job_id, folder)
            self._finish(job_id, folder)
        self._start(busy)
        return found

    def _run(self, folder: Path) -> tuple[str, str]:
        """Submit a job, and return its id and the worker that runs its command."""
        job_id = self.client.run_manifest(gated(folder))
        harness.until(lambda: starts(folder))
        worker: Any = self.server.hget(self.keys.agent(job_id, AGENT), "node")
        return job_id, worker.decode()

    def _kill(self, busy: str, job_id: str, folder: Path) -> Recovery:
        killed_at = time.time()
        self.fleet.kill(busy)
        lease_end = self.server.zscore(self.keys.claims(job_id), AGENT) / 1000
        harness.until(lambda: len(starts(folder)) == 2)
        freed_at = next(int(e["id"].partition("-")[0]) for e in self.client.events(job_id) if e["type"] == FREED) / 1000
        if busy == self.sweeper:
            self.sweeper = next(name for name in NAMES if name != busy)
        return Recovery(lease_end - killed_at, freed_at - lease_end, starts(folder)[1] - freed_at)

    def _finish(self, job_id: str, folder: Path) -> None:
        (folder / "gate").touch()
        job = self.client.wait_for_job(job_id, timeout=60_000)
        assert job["status"] == "completed", job

    def _start(self, name: str) -> None:
        self.server.delete(self.keys.node(name))  # the registration of a killed worker is still there
        self.fleet.start(name)
        harness.until(lambda: name in {node["name"] for node in self.client.inspect_nodes()})


def measure(url: str, lease_ms: int, rounds: int) -> dict[str, list[Recovery]]:
    """Return the recoveries by the kind of the killed worker."""
    with tempfile.TemporaryDirectory() as temp_dir:
        own = {"redis_url": url, "redis_namespace": f"lease_{lease_ms}", "claim_lease_ms": lease_ms}
        settings = Settings.load(**own, temp_dir=temp_dir)
        environment = {f"{PREFIX}{name.upper()}": str(value) for name, value in (own | {"temp_dir": temp_dir}).items()}
        with harness.workers("workers", environment, count=0) as fleet:
            cluster = Cluster(settings, fleet)
            taken: dict[str, list[Recovery]] = {"a worker": [], "the sweeper": []}
            for _ in range(rounds):
                taken["a worker"].append(cluster.recovery(of_sweeper=False))
                taken["the sweeper"].append(cluster.recovery(of_sweeper=True))
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--leases", type=int, nargs="+", default=[6_000, 2_000], metavar="MS")
    options = parser.parse_args()
    missed = 0
    with harness.server() as url:
        for lease_ms in options.leases:
            for whose, rows in measure(url, lease_ms, options.rounds).items():
                missed += report(lease_ms / 1000, whose, rows)
    return int(missed > 0)


def report(lease: float, whose: str, rows: list[Recovery]) -> bool:
    """Print the recoveries of one kind. Returns True if the goal was missed."""
    worst = max(rows, key=lambda row: row.total)
    middle = harness.median([row.total for row in rows])
    spent = ", ".join(f"{name} {seconds:.2f}" for name, seconds in asdict(worst).items())
    met = worst.total <= GOAL * lease
    print(
        f"lease {lease:g} s, {whose:<12} dies: median {middle / lease:5.2f}, worst {worst.total / lease:5.2f} leases"
        f"  (goal: at most {GOAL:g}: {'met' if met else 'MISSED'})  worst in seconds: {spent}",
        flush=True,
    )
    return not met


if __name__ == "__main__":
    sys.exit(main())
