"""Our side: a node as `mn worker` starts it, with its defaults, and the client."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import graphs, harness, work
from benchmarks.side import RESULT_S, SLOTS
from mirrorneuron import Client, JobBundle, Settings
from mirrorneuron.settings import PREFIX

MN = (sys.executable, "-m", "mirrorneuron.cli")
POOLS = {"light", "default"}


@dataclass(frozen=True)
class Node:
    """A node that has registered."""

    client: Client
    environment: dict[str, str]  #: of the node, and of commands that use it
    pid: int
    registered_s: float  #: from the start of `mn worker` until all its workers had registered


@contextmanager
def node(url: str, slots: int = SLOTS) -> Iterator[Node]:
    """Run `mn worker --slots N` on the server *url* for the duration of the block. Needs a server without jobs."""
    with tempfile.TemporaryDirectory() as folder:
        own = {f"{PREFIX}REDIS_URL": url, f"{PREFIX}TEMP_DIR": str(Path(folder, "temp")), f"{PREFIX}HOME": folder}
        environment = harness.environment(**own)
        client = Client(Settings.load(redis_url=url))
        client.inspect_nodes()  # the first call connects
        registered = harness.stopwatch()
        with harness.started((*MN, "worker", "--slots", str(slots)), environment) as process:
            harness.until(lambda: {pool for found in client.inspect_nodes() for pool in found["pools"]} >= POOLS)
            yield Node(client, environment, process.pid, registered())


@contextmanager
def running(url: str) -> Iterator[Ours]:
    with node(url) as ready:
        yield Ours(ready.client, ready.pid)


class Ours:
    """As `side.Side`."""

    def __init__(self, client: Client, pid: int) -> None:
        self.client, self.pid = client, pid
        self._chain = graphs.python_chain()
        self._routers = graphs.router_chain()
        self._command = graphs.command()
        self._fans: dict[int, JobBundle] = {}

    def chain(self, job: int) -> Callable[[], object]:
        job_id = self._submit(self._chain, job)
        return lambda: work.check(self._output(job_id)["n"], job + work.STEPS)

    def routers(self, job: int) -> Callable[[], object]:
        """A chain of light agents, which no peer has."""
        job_id = self._submit(self._routers, job)
        return lambda: work.check(self._output(job_id)["count"], 1)

    def fan(self, job: int, width: int) -> None:
        if width not in self._fans:
            self._fans[width] = graphs.python_fan(width)
        job_id = self._submit(self._fans[width], job)
        work.check(self._output(job_id)["count"], width)

    def command(self, job: int) -> Callable[[], object]:
        job_id = self._submit(self._command, job)
        return lambda: work.check(self._output(job_id)["sandbox"]["stdout"], work.PRINTED)

    def ended(self, job: int) -> Callable[[], object]:
        job_id = self.ended_id(job)
        return lambda: self.client.wait_for_job(job_id)

    def ended_id(self, job: int) -> str:
        """Run a chain to its end; return the id of its job."""
        job_id = self._submit(self._chain, job)
        self._output(job_id)
        return job_id

    def _submit(self, bundle: JobBundle, job: int) -> str:
        return self.client.run_manifest(job_bundle=graphs.with_input(bundle, job))

    def _output(self, job_id: str) -> Any:
        job = self.client.wait_for_job(job_id, timeout=RESULT_S * 1000)
        assert job["status"] == "completed", job
        return job["result"]["output"]
