"""What a job costs: commands, round trips and bytes of the server, CPU of all processes, and bytes that it leaves.

The counters of a private server are read before and after (`INFO`). What the idle node adds in the same time is
measured first, and subtracted.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from benchmarks import graphs, harness, ours
from benchmarks.row import Row, at_most
from benchmarks.size import Size
from mirrorneuron import Client, JobBundle

PYTHON, ROUTERS = "Python chain of 3", "chain of 3 light agents"
PYTHON_HOP, ROUTERS_HOP = "one more step of Python", "one more router"
LONGER = 6  # steps; the difference to 3 gives the cost of one
SCRIPTS = ("evalsha", "eval", "fcall")
TOP = 8  # commands that are named
ENDED_BYTES = 4_096
Counts = Mapping[str, float]


def rows(size: Size) -> Iterator[Row]:
    with harness.server() as url, ours.node(url) as node:
        meter = Meter(node.client, node.pid)
        meter.learn_idle(size.watch_s)
        yield from Costs(meter, size).rows()


class Meter:
    """Counters of one server, one node and this process. No other process may use the server meanwhile."""

    def __init__(self, client: Client, node_pid: int) -> None:
        self.client = client
        self.server: Any = Redis.from_url(client.settings.redis_url)
        self._node_pid = node_pid
        self._idle: Counts = {}  #: a second

    def learn_idle(self, watch_s: float) -> None:
        """Measure what the idle node adds to the counters."""
        before, watch = self.read(), harness.stopwatch()
        time.sleep(watch_s)
        found, seconds = self.read(), watch()
        self._idle = {name: (found[name] - before.get(name, 0)) / seconds for name in found}

    def added(self, work: Callable[[], object], jobs: int) -> Counts:
        """What *work*, which runs *jobs* jobs, adds to the counters for each of them."""
        before, watch = self.read(), harness.stopwatch()
        work()
        seconds = watch()
        found = self.read()
        idle = {name: seconds * self._idle.get(name, 0) for name in found}
        return {name: max(0.0, found[name] - before.get(name, 0) - idle[name]) / jobs for name in found}

    def read(self) -> Counts:
        """The counters now; commands have the prefix `command.`."""
        stats, cpu = self.server.info("stats"), self.server.info("cpu")
        commands = self.server.info("commandstats")
        found = {f"command.{name[8:]}": float(row["calls"]) for name, row in commands.items()}
        found["round trips"] = float(stats["total_reads_processed"])
        found["bytes in"] = float(stats["total_net_input_bytes"])
        found["bytes out"] = float(stats["total_net_output_bytes"])
        found["cpu server"] = 1000 * (cpu["used_cpu_user"] + cpu["used_cpu_sys"])
        found["cpu node"] = 1000 * harness.cpu_seconds(self._node_pid)
        found["cpu producer"] = 1000 * sum(os.times()[:2])
        return found

    def kept(self, job_id: str) -> float:
        """Bytes of all keys of one job."""
        keys = list(self.server.scan_iter(f"*{{{job_id}}}*", count=1_000))
        return float(sum(self.server.memory_usage(key, samples=0) for key in keys))


@dataclass(frozen=True)
class Cost:
    """Of one job."""

    counts: Counts
    kept: float  #: bytes

    @property
    def commands(self) -> Counts:
        """Those that the server executed, for a client or within a script; without the reads of the counters."""
        found = {name[8:]: calls for name, calls in self.counts.items() if name.startswith("command.") and calls > 0.05}
        return {name: calls for name, calls in found.items() if not name.startswith("info")}

    @property
    def scripts(self) -> float:
        return sum(self.counts.get(f"command.{name}", 0) for name in SCRIPTS)

    @property
    def cpu(self) -> float:
        return self.counts["cpu server"] + self.counts["cpu node"] + self.counts["cpu producer"]


class Costs:
    """Chains of two lengths and two kinds, first one by one, then many at once."""

    def __init__(self, meter: Meter, size: Size) -> None:
        self._meter, self._size = meter, size
        self._jobs = itertools.count(1)

    def rows(self) -> Iterator[Row]:
        kinds = ((PYTHON, PYTHON_HOP, graphs.python_chain), (ROUTERS, ROUTERS_HOP, graphs.router_chain))
        costs: dict[str, tuple[Cost, Cost, Cost]] = {}  # chain -> one by one, longer ones, many at once
        for name, _, chain in kinds:
            self._run(chain(), 2)  # warm up
            costs[name] = (self._cost(chain()), self._cost(chain(LONGER)), self._cost(chain(), at_once=True))
        hops = {name: hop for name, hop, _ in kinds}
        yield from self._server_rows(costs, hops)
        yield self._cpu_row("one by one", costs, 0)
        yield self._cpu_row("many at once", costs, 2)
        kept = {name: single.kept for name, (single, _, _) in costs.items()}
        yield Row("an ended chain keeps", "bytes", kept, (at_most(ENDED_BYTES),))
        yield from self._submissions()

    def _server_rows(self, costs: dict[str, tuple[Cost, Cost, Cost]], hops: dict[str, str]) -> Iterator[Row]:
        def sides(measure: Callable[[Cost], float]) -> dict[str, float | None]:
            found: dict[str, float | None] = {}
            for name, (single, longer, _) in costs.items():
                found[name] = measure(single)
                found[hops[name]] = (measure(longer) - measure(single)) / (LONGER - 3)
            return found

        calls = "; ".join(f"{name}: {_named(single.commands)}" for name, (single, _, _) in costs.items())
        yield Row("scripts", "calls", sides(lambda cost: cost.scripts), (at_most(3),))
        yield Row(
            "commands, those within scripts too", "calls", sides(lambda cost: sum(cost.commands.values())), note=calls
        )
        trips = (
            "reads of the server's sockets: a pipeline counts once, and a blocking read of a queue that is renewed too"
        )
        yield Row("round trips", "calls", sides(lambda cost: cost.counts["round trips"]), note=trips)
        yield Row("bytes to the server", "bytes", sides(lambda cost: cost.counts["bytes in"]))
        yield Row("bytes from the server", "bytes", sides(lambda cost: cost.counts["bytes out"]))

    def _cpu_row(self, how: str, costs: dict[str, tuple[Cost, Cost, Cost]], which: int) -> Row:
        figures = {name: cost[which].cpu for name, cost in costs.items()}
        parts = ("server", "node", "producer")
        note = "; ".join(
            f"{name}: " + ", ".join(f"{part} {cost[which].counts[f'cpu {part}']:.2f}" for part in parts)
            for name, cost in costs.items()
        )
        goals = (at_most(2.2),) if which == 2 else ()
        return Row(f"CPU of all processes, chains {how}", "ms", figures, goals, note=note)

    def _submissions(self) -> Iterator[Row]:
        """CPU of the producer for submissions alone: jobs are awaited outside of the measured time."""
        client, bundle, count = self._meter.client, graphs.python_chain(), self._size.submissions
        spent = {}
        for name, distinct in (("unchanged bundle", False), ("other inputs each time", True)):
            self._run(bundle, 2)
            before = time.process_time()
            ids = []
            for _ in range(count):
                if distinct:
                    graphs.with_input(bundle, next(self._jobs))
                ids.append(client.run_manifest(job_bundle=bundle))
            spent[name] = 1000 * (time.process_time() - before) / count
            for job_id in ids:
                client.wait_for_job(job_id)
        yield Row("CPU of a submission", "ms", spent, (at_most(0.35),))

    def _cost(self, bundle: JobBundle, *, at_once: bool = False) -> Cost:
        count = self._size.burst if at_once else self._size.serial
        ids: list[str] = []
        counts = self._meter.added(lambda: ids.extend(self._run(bundle, count, at_once=at_once)), count)
        return Cost(counts, harness.median([self._meter.kept(job_id) for job_id in ids[:5]]))

    def _run(self, bundle: JobBundle, count: int, *, at_once: bool = False) -> list[str]:
        """Run *count* jobs with inputs that differ; return their ids."""
        client, ids = self._meter.client, []
        for _ in range(count):
            graphs.with_input(bundle, next(self._jobs))
            ids.append(client.run_manifest(job_bundle=bundle))
            if not at_once:
                assert client.wait_for_job(ids[-1])["status"] == "completed"
        for job_id in ids if at_once else ():
            assert client.wait_for_job(job_id)["status"] == "completed"
        return ids


def _named(commands: Counts) -> str:
    """The most frequent commands, for people."""
    most = sorted(commands.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {calls:.1f}" for name, calls in most[:TOP])
