"""All connections are cut repeatedly while the server runs: every client and worker reconnects."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirrorneuron import RuntimeUnavailable
from mirrorneuron.api.client import Client
from mirrorneuron.job import JobMap
from tests.support.graphs import executor, fan, light_fan, processed
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer

PATIENCE_MS = 60_000
CUTS = 40
EVERY_S = (0.04, 0.08, 0.15)  # a cut while a message is being sent is rare
WIDTH = 200
GRAPHS = {
    "light": light_fan(WIDTH),
    "heavy": fan([executor(name, "true", output_message_type="done") for name in "abcdef"], "done"),
}


@pytest.fixture(scope="module")
def store_url(mortal: ValkeyServer) -> str:
    return mortal.url


def completed(client: Client, kind: str, number: int) -> str:
    """Run one job; try again if its producer is cut off twice in a row."""
    job: JobMap | None = None
    while job is None:
        try:
            job_id, job = client.run_manifest(GRAPHS[kind], job_id=f"{kind}-{number}", await_=True, timeout=PATIENCE_MS)
        except RuntimeUnavailable:
            continue
    assert job["status"] == "completed"
    return job_id


def test_no_worker_ends_and_each_message_takes_effect_once(mortal: ValkeyServer, own: RealNode, jobs: Client) -> None:
    """Celery acknowledges a message on its own channel; a worker must not exit if a cut has closed that channel."""
    workers, over = own.pids, threading.Event()

    def cut() -> None:
        for number in range(CUTS):
            for kind in ("normal", "pubsub"):
                mortal.client.execute_command("CLIENT", "KILL", "SKIPME", "yes", "TYPE", kind)
            if over.wait(EVERY_S[number % len(EVERY_S)]):
                return

    with ThreadPoolExecutor(13) as pool:
        cutting = pool.submit(cut)
        ids = list(pool.map(completed, [jobs] * 12, list(GRAPHS) * 6, range(12)))
        over.set()
        cutting.result()
    for job_id in ids:
        counts = sorted(processed(jobs, job_id).values())
        collected = WIDTH if job_id.startswith("light") else 6
        assert counts == [*[1] * (len(counts) - 1), collected]
    assert own.pids == workers
    assert not any(map(own.ended, workers))
