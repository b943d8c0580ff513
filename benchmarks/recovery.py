"""The time to recover from a dead worker: from SIGKILL of a busy worker to the start of the same run on another one.

In every other round, the killed worker is also the one that sweeps, so that the other one has to become the sweeper
first. The figure is the worst time, in claim leases.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from redis import Redis

from benchmarks import harness
from benchmarks.row import Row, at_most
from benchmarks.size import Size
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


class Workers:
    """Celery workers on all queues, each in one process: a kill of that process is a kill of the whole worker."""

    def __init__(self, environment: dict[str, str], log: IO[bytes]) -> None:
        self._env = harness.environment(**environment)
        self._log = log
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start the worker *name* in a new session: Ctrl-C does not reach it, and `kill` reaches its children."""
        celery = (sys.executable, "-m", "celery", "-A", "workers", "worker", "-P", "solo", "-l", "ERROR", "-E")
        self._started[name] = subprocess.Popen(
            [*celery, "--without-gossip", "--without-mingle", "--without-heartbeat", "-n", name],
            cwd=harness.ROOT,
            env=self._env,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """Kill a worker with its process group, as if the machine had lost power."""
        worker = self._started.pop(name)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def stop(self) -> None:
        for worker in self._started.values():
            worker.terminate()
        for worker in self._started.values():
            worker.wait()


@contextmanager
def workers(environment: dict[str, str]) -> Iterator[Workers]:
    """The workers that are started in the block. If the block fails, their output is printed."""
    with tempfile.TemporaryFile() as log:
        fleet = Workers(environment, log)
        try:
            yield fleet
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-harness.LOG_TAIL :], file=sys.stderr)
            raise
        finally:
            fleet.stop()


class Cluster:
    """Two workers that serve all queues. One of them is killed at a time."""

    def __init__(self, settings: Settings, fleet: Workers) -> None:
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
        with workers(environment) as fleet:
            cluster = Cluster(settings, fleet)
            taken: dict[str, list[Recovery]] = {"a worker": [], "the sweeper": []}
            for _ in range(rounds):
                taken["a worker"].append(cluster.recovery(of_sweeper=False))
                taken["the sweeper"].append(cluster.recovery(of_sweeper=True))
    return taken


def rows(size: Size) -> Iterator[Row]:
    for lease_ms in size.leases_ms:
        with harness.server() as url:
            for whose, recoveries in measure(url, lease_ms, size.kills).items():
                yield row(lease_ms / 1000, whose, recoveries)


def row(lease: float, whose: str, recoveries: list[Recovery]) -> Row:
    """The recoveries of one kind."""
    worst = max(recoveries, key=lambda found: found.total)
    middle = harness.median([found.total for found in recoveries])
    spent = ", ".join(f"{name} {seconds:.2f}" for name, seconds in asdict(worst).items())
    note = f"median {middle / lease:.2f} leases; parts of the worst, in seconds: {spent}"
    name = f"recovery when {whose} dies, lease {lease:g} s"
    return Row(name, "leases", {"worst": worst.total / lease}, (at_most(GOAL),), note=note)
