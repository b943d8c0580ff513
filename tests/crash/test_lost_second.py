"""A server that was not told to keep its last second: work may be done again, and none is stuck or half done."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirrorneuron import JobNotFound
from mirrorneuron.claim import End
from mirrorneuron.client import Client
from mirrorneuron.job import JobMap, JobStatus
from mirrorneuron.keys import Keys
from mirrorneuron.settings import Settings
from mirrorneuron.store import Store
from tests.crash.bundles import alive, gated, queued, starts
from tests.crash.conftest import LEASE_MS
from tests.jobs.graphs import executor, fan, job_ref, light_fan, line, snapshots
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server of this module's own, whose memory ends where a test says."""
    with ValkeyServer(tmp_path_factory.mktemp("lost"), durable=True) as running:
        yield running


@pytest.fixture(scope="module")
def node(server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """A node on it; its workers live through all of these tests."""
    folder = tmp_path_factory.mktemp("lost_node")
    settings = Settings(
        redis_url=server.url,
        redis_namespace=folder.name,
        temp_dir=folder / "temp",
        executor_max_concurrency=2,
        claim_lease_ms=LEASE_MS,
    )
    with RealNode(folder, settings) as running:
        workers = running.pids
        yield running
        assert running.pids == workers
        assert all(alive(pid) for pid in workers.values())


@pytest.fixture
def client(node: RealNode) -> Client:
    return Client(node.settings)


def completed(client: Client, job_id: str) -> JobMap:
    job = client.wait_for_job(job_id, PATIENCE_MS)
    assert job["status"] == "completed", job["result"]
    return job


def live(server: ValkeyServer, client: Client) -> set[bytes]:
    """The jobs that the sweeper looks after."""
    return server.client.smembers(Keys(client.settings.redis_namespace).live)


def processed(client: Client, job_id: str) -> dict[str, int]:
    return {name: agent["processed_messages"] for name, agent in snapshots(client, job_id).items()}


def test_a_job_whose_end_was_lost_ends_again(server: ValkeyServer, client: Client, tmp_path: Path) -> None:
    """Its command runs again, because nobody knows any more that it did."""
    job_id = client.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    mark = server.mark()
    (tmp_path / "gate").touch()
    before = completed(client, job_id)
    wait_until(lambda: not live(server, client))
    server.lose_since(mark)
    server.start()
    assert client.inspect_job(job_id)["status"] == "running"
    after = completed(client, job_id)
    assert after["result"] is not None
    assert before["result"] is not None
    assert after["result"]["output"]["count"] == before["result"]["output"]["count"] == 1
    assert processed(client, job_id) == {"worker": 1, "sink": 1}
    assert len(starts(tmp_path)) == 2


def test_a_job_whose_end_was_lost_is_still_looked_after(server: ValkeyServer, client: Client, tmp_path: Path) -> None:
    """The worker that ended it tidies up a little later, on a server that knows of no end."""
    (tmp_path / "never").mkdir()
    store = Store(client.settings)
    job_id = client.run_manifest(gated(tmp_path / "never"))
    wait_until(lambda: starts(tmp_path / "never"))
    mark = server.mark()
    assert store.scripts.finish(job_ref(client, job_id), End(JobStatus.CANCELLED, b"{}"), ())
    server.lose_since(mark)
    server.start()
    store.bury([job_id])
    try:
        assert job_id in store.live_ids()
    finally:
        client.cancel(job_id)
        store.client.close()


def test_a_job_whose_creation_was_lost_is_not_there(server: ValkeyServer, client: Client, tmp_path: Path) -> None:
    """Who waits for it is told so, its command is ended, and it can be submitted again."""
    mark = server.mark()
    job_id = client.run_manifest(gated(tmp_path), job_id="again")
    (pid,) = wait_until(lambda: starts(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(client.wait_for_job, job_id, PATIENCE_MS)
        wait_until(lambda: server.client.pubsub_numsub(f"celery-task-meta-{job_id}")[0][1])
        server.lose_since(mark)
        server.start()
        with pytest.raises(JobNotFound):
            wait.result()
    wait_until(lambda: not alive(pid))
    (tmp_path / "gate").touch()
    assert client.run_manifest(gated(tmp_path), job_id="again") == job_id
    completed(client, job_id)
    assert len(starts(tmp_path)) == 2


def test_a_claim_that_was_lost_commits_nothing(server: ValkeyServer, client: Client, tmp_path: Path) -> None:
    """The server knows the second message as one that nobody has taken; what its run did is done again."""
    gate = tmp_path / "gate"
    job_id = client.run_manifest(queued(tmp_path, 2))
    wait_until(lambda: starts(tmp_path))
    client.pause(job_id)
    gate.touch()
    wait_until(lambda: processed(client, job_id)["worker"] == 1)
    gate.unlink()
    mark = server.mark()
    client.resume(job_id)
    wait_until(lambda: len(starts(tmp_path)) == 2)
    server.lose_since(mark)
    gate.touch()  # it ends while nobody can be told
    wait_until(lambda: not alive(starts(tmp_path)[1]))
    server.start()
    assert client.inspect_job(job_id)["status"] == "paused"
    client.resume(job_id)
    completed(client, job_id)
    assert processed(client, job_id) == {"worker": 2, "sink": 2}
    assert len(starts(tmp_path)) == 3


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_jobs_go_on_from_wherever_the_memory_ends(server: ValkeyServer, client: Client, share: float) -> None:
    """Each is there whole and completes, or it is not there; each message counts once."""
    mark = server.mark()
    leaves = [executor(name, "true", output_message_type="done") for name in ("one", "two", "three", "four")]
    graphs = {"heavy": fan(leaves, "done"), "wide": light_fan(300), "line": line(5)}
    jobs = {client.run_manifest(graph): name for _ in range(2) for name, graph in graphs.items()}
    expected = {}
    for job_id, name in jobs.items():
        completed(client, job_id)
        expected[name] = processed(client, job_id)
    wait_until(lambda: not live(server, client))
    server.lose_since(mark + int((server.mark() - mark) * share))
    server.start()
    there = [job_id for job_id in jobs if is_there(client, job_id)]
    assert there == list(jobs)[: len(there)]
    for job_id in there:
        completed(client, job_id)
        assert processed(client, job_id) == expected[jobs[job_id]]


def test_a_server_that_lost_everything_is_served_at_once(
    server: ValkeyServer, node: RealNode, client: Client, tmp_path: Path
) -> None:
    """Waits end, the workers live on, and nothing of their old life is missing to them."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    job_id = client.run_manifest(gated(tmp_path / "old"))
    (pid,) = wait_until(lambda: starts(tmp_path / "old"))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(client.wait_for_job, job_id, PATIENCE_MS)
        wait_until(lambda: server.client.pubsub_numsub(f"celery-task-meta-{job_id}")[0][1])
        server.lose_since(0)
        server.start()
        assert server.client.dbsize() < 20, "it is empty but for what the workers write"
        (tmp_path / "new" / "gate").touch()
        new = client.run_manifest(gated(tmp_path / "new"))
        with pytest.raises(JobNotFound):
            wait.result()
    completed(client, new)
    wait_until(lambda: not alive(pid))
    workers = {f"{pool}@{node.settings.redis_namespace}" for pool in node.pids}
    wait_until(lambda: {worker["name"] for worker in client.inspect_nodes()} == workers)
    wait_until(lambda: server.client.get(Keys(node.settings.redis_namespace).sweeper))
    assert [job["job_id"] for job in client.list_jobs()] == [new]


def is_there(client: Client, job_id: str) -> bool:
    try:
        client.inspect_job(job_id)
    except JobNotFound:
        return False
    return True
