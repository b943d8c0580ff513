"""A server that loses its last second of writes: work may be repeated, but no job is stuck or half done."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirrorneuron import JobNotFound
from mirrorneuron.api.client import Client
from mirrorneuron.job import JobMap, JobStatus
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.keys import Keys
from mirrorneuron.store.protocol import JobEnd, ReplyCode
from tests.support.crash_bundles import gated, queued, starts
from tests.support.graphs import executor, fan, is_alive, job_ref, light_fan, line, processed
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def store_url(mortal: ValkeyServer) -> str:
    """A server whose writes can be lost from a given point on."""
    return mortal.url


@pytest.fixture(scope="module", autouse=True)
def survivors(own: RealNode) -> Iterator[None]:
    """Check that the workers survive all of these tests."""
    workers = own.pids
    yield
    assert own.pids == workers
    assert all(is_alive(pid) for pid in workers.values())


def completed(client: Client, job_id: str) -> JobMap:
    job = client.wait_for_job(job_id, PATIENCE_MS)
    assert job["status"] == "completed", job["result"]
    return job


def live(server: ValkeyServer, client: Client) -> set[bytes | str]:
    """The ids in the live index, which the sweeper sweeps."""
    return server.client.smembers(Keys(client.settings.redis_namespace).live)


def test_a_job_whose_end_was_lost_ends_again(mortal: ValkeyServer, jobs: Client, tmp_path: Path) -> None:
    """Its command runs again, because the record of its run is lost."""
    job_id = jobs.run_manifest(gated(tmp_path))
    wait_until(lambda: starts(tmp_path))
    mark = mortal.mark()
    (tmp_path / "gate").touch()
    before = completed(jobs, job_id)
    wait_until(lambda: not live(mortal, jobs))
    mortal.lose_since(mark)
    mortal.start()
    wait_until(lambda: len(starts(tmp_path)) == 2)
    after = completed(jobs, job_id)
    assert after["result"] is not None
    assert before["result"] is not None
    assert after["result"]["output"]["count"] == before["result"]["output"]["count"] == 1
    assert processed(jobs, job_id) == {"worker": 1, "sink": 1}
    assert len(starts(tmp_path)) == 2


def test_a_job_whose_end_was_lost_is_still_swept(mortal: ValkeyServer, jobs: Client, tmp_path: Path) -> None:
    """The worker that ended it removes it from the live index later, on a server that has lost the end."""
    (tmp_path / "never").mkdir()
    store = Store(jobs.settings)
    job_id = jobs.run_manifest(gated(tmp_path / "never"))
    wait_until(lambda: starts(tmp_path / "never"))
    mark = mortal.mark()
    assert store.scripts.finish(job_ref(jobs, job_id), JobEnd(JobStatus.CANCELLED, b"{}"), ()) is ReplyCode.SETTLED
    mortal.lose_since(mark)
    mortal.start()
    store.index.mark_ended([job_id])
    try:
        assert job_id in store.index.live()
    finally:
        jobs.cancel(job_id)
        store.client.close()


def test_a_run_that_was_ended_for_a_lost_cancellation_is_not_a_failure(
    mortal: ValkeyServer, jobs: Client, tmp_path: Path
) -> None:
    """When the run has ended, the server has lost the end of the job, and the agent runs again."""
    graph = gated(tmp_path)
    command = graph["nodes"][0]["config"]["command"]
    command[-1] = f"trap 'touch {tmp_path}/ended' TERM; {command[-1]}"
    store = Store(jobs.settings)
    job_id = jobs.run_manifest(graph)
    wait_until(lambda: starts(tmp_path))
    mark = mortal.mark()
    assert store.scripts.finish(job_ref(jobs, job_id), JobEnd(JobStatus.CANCELLED, b"{}"), ()) is ReplyCode.SETTLED
    wait_until((tmp_path / "ended").exists)
    mortal.lose_since(mark)
    mortal.start()
    store.client.close()
    wait_until(lambda: len(starts(tmp_path)) == 2)
    (tmp_path / "gate").touch()
    completed(jobs, job_id)
    assert processed(jobs, job_id) == {"worker": 1, "sink": 1}


def test_a_job_whose_creation_was_lost_is_not_found(mortal: ValkeyServer, jobs: Client, tmp_path: Path) -> None:
    """A waiting client gets JobNotFound, the command is ended, and the job can be submitted again."""
    mark = mortal.mark()
    job_id = jobs.run_manifest(gated(tmp_path), job_id="again")
    (pid,) = wait_until(lambda: starts(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(jobs.wait_for_job, job_id, PATIENCE_MS)
        wait_until(lambda: mortal.client.pubsub_numsub(f"celery-task-meta-{job_id}")[0][1])
        mortal.lose_since(mark)
        mortal.start()
        with pytest.raises(JobNotFound):
            wait.result()
    wait_until(lambda: not is_alive(pid))
    (tmp_path / "gate").touch()
    assert jobs.run_manifest(gated(tmp_path), job_id="again") == job_id
    completed(jobs, job_id)
    assert len(starts(tmp_path)) == 2


def test_a_claim_that_was_lost_commits_nothing(mortal: ValkeyServer, jobs: Client, tmp_path: Path) -> None:
    """The server has lost the claim of the second message, so that message is run again."""
    gate = tmp_path / "gate"
    job_id = jobs.run_manifest(queued(tmp_path, 2))
    wait_until(lambda: starts(tmp_path))
    jobs.pause(job_id)
    gate.touch()
    wait_until(lambda: processed(jobs, job_id)["worker"] == 1)
    gate.unlink()
    mark = mortal.mark()
    jobs.resume(job_id)
    wait_until(lambda: len(starts(tmp_path)) == 2)
    mortal.lose_since(mark)
    gate.touch()  # it ends while the server is down
    wait_until(lambda: not is_alive(starts(tmp_path)[1]))
    mortal.start()
    assert jobs.inspect_job(job_id)["status"] == "paused"
    jobs.resume(job_id)
    completed(jobs, job_id)
    assert processed(jobs, job_id) == {"worker": 2, "sink": 2}
    assert len(starts(tmp_path)) == 3


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_jobs_continue_from_any_point_of_lost_writes(mortal: ValkeyServer, jobs: Client, share: float) -> None:
    """Each job is complete and completes, or is missing; each message takes effect once."""
    mark = mortal.mark()
    leaves = [executor(name, "true", output_message_type="done") for name in ("one", "two", "three", "four")]
    graphs = {"heavy": fan(leaves, "done"), "wide": light_fan(300), "line": line(5)}
    ids = {jobs.run_manifest(graph): name for _ in range(2) for name, graph in graphs.items()}
    expected = {}
    for job_id, name in ids.items():
        completed(jobs, job_id)
        expected[name] = processed(jobs, job_id)
    wait_until(lambda: not live(mortal, jobs))
    mortal.lose_since(mark + int((mortal.mark() - mark) * share))
    mortal.start()
    there = [job_id for job_id in ids if is_there(jobs, job_id)]
    assert there == list(ids)[: len(there)]
    for job_id in there:
        completed(jobs, job_id)
        assert processed(jobs, job_id) == expected[ids[job_id]]


def test_a_server_that_lost_everything_is_served_at_once(
    mortal: ValkeyServer, own: RealNode, jobs: Client, tmp_path: Path
) -> None:
    """Waits end, and the workers survive and register again."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    job_id = jobs.run_manifest(gated(tmp_path / "old"))
    (pid,) = wait_until(lambda: starts(tmp_path / "old"))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(jobs.wait_for_job, job_id, PATIENCE_MS)
        wait_until(lambda: mortal.client.pubsub_numsub(f"celery-task-meta-{job_id}")[0][1])
        mortal.lose_since(0)
        mortal.start()
        assert mortal.client.dbsize() < 20, "it is empty but for what the workers write"
        (tmp_path / "new" / "gate").touch()
        new = jobs.run_manifest(gated(tmp_path / "new"))
        with pytest.raises(JobNotFound):
            wait.result()
    completed(jobs, new)
    wait_until(lambda: not is_alive(pid))
    workers = {f"{pool}@{own.settings.redis_namespace}" for pool in own.pids}
    wait_until(lambda: {worker["name"] for worker in jobs.inspect_nodes()} == workers)
    wait_until(lambda: mortal.client.get(Keys(own.settings.redis_namespace).sweeper))
    assert [job["job_id"] for job in jobs.list_jobs()] == [new]


def is_there(client: Client, job_id: str) -> bool:
    try:
        client.inspect_job(job_id)
    except JobNotFound:
        return False
    return True
