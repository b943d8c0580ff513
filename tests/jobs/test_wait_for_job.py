"""wait_for_job: one read for an ended job, a push for a live one, and no effect on the job."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from mirrorneuron import JobNotFound, WaitTimeout
from mirrorneuron.api import waiting
from mirrorneuron.job import JobStatus
from tests.support.graphs import PATIENCE_MS, ended, finish, keys_of, line, single, until_there
from tests.support.waiting import wait_until

NEVER_S = 3_600


def subscribers(server: redis.Redis, job_id: str) -> int:
    channel = f"celery-task-meta-{job_id}"
    return dict(server.pubsub_numsub(channel))[channel.encode()]


def test_waiting_for_an_ended_job_is_one_read(client, monkeypatch):
    """Whatever the timeout, even zero: the record is returned."""
    job = ended(client, line(3))
    for _ in range(2):  # a connection for such reads is opened
        client.inspect_job(job["job_id"])
    sent, here = [], threading.get_ident()  # other threads wait for other jobs
    connection = redis.connection.AbstractConnection
    plain = connection.send_packed_command
    monkeypatch.setattr(
        connection,
        "send_packed_command",
        lambda self, packed, **k: (threading.get_ident() == here and sent.append(packed)) or plain(self, packed, **k),
    )
    assert client.wait_for_job(job["job_id"]) == client.wait_for_job(job["job_id"], timeout=0) == job
    assert [b"".join(packed).count(b"HMGET") for packed in sent] == [1, 1]


def test_an_unknown_job_is_an_error_without_a_wait(client):
    with pytest.raises(JobNotFound, match="no job 'nobody'"):
        client.wait_for_job("nobody")


def test_a_timeout_does_not_affect_the_job(client, outside):
    """The wait ends, the job does not: a later wait returns its end."""
    job_id = client.run_manifest(single(until_there(outside / "gate")))
    with pytest.raises(WaitTimeout, match="has not ended in time; it continues") as caught:
        client.wait_for_job(job_id, timeout=50)
    assert caught.value.job_id == job_id
    assert client.inspect_job(job_id)["status"] in ("pending", "running")
    (outside / "gate").touch()
    assert client.wait_for_job(job_id, timeout=PATIENCE_MS)["status"] == "completed"


def test_the_end_of_a_job_wakes_its_waiter(unserved, server, monkeypatch):
    """By a push: the next re-read would come in an hour."""
    monkeypatch.setattr(waiting, "REREAD_S", NEVER_S)
    job_id = unserved.run_manifest(line(3))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(unserved.wait_for_job, job_id)
        wait_until(lambda: subscribers(server.client, job_id))
        finish(unserved, job_id)
        assert wait.result(timeout=30)["status"] == "cancelled"


def test_a_lost_push_only_delays_the_end_of_the_wait(unserved, server, monkeypatch):
    """The record is read again periodically, which ends the wait without a push."""
    monkeypatch.setattr(waiting, "REREAD_S", 0.02)
    job_id = unserved.run_manifest(line(3))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(unserved.wait_for_job, job_id)
        wait_until(lambda: subscribers(server.client, job_id))
        server.client.hset(keys_of(unserved).job(job_id), "status", JobStatus.CANCELLED)
        assert wait.result(timeout=30)["status"] == "cancelled"


def test_a_job_may_have_many_waiters(client, server, outside):
    """Twenty threads wait for one job with one client, and each gets the whole record.

    One of them may have a subscription of its own, and all others share one.
    """
    job_id = client.run_manifest(single(until_there(outside / "gate")))
    with ThreadPoolExecutor(20) as pool:
        waits = [pool.submit(client.wait_for_job, job_id, PATIENCE_MS) for _ in range(20)]
        wait_until(lambda: 1 <= subscribers(server.client, job_id) <= 2)
        (outside / "gate").touch()
        found = [wait.result() for wait in waits]
    assert found == [client.inspect_job(job_id)] * 20
    wait_until(lambda: subscribers(server.client, job_id) == 0)


def test_a_job_that_is_deleted_during_a_wait_is_not_found(unserved, server, monkeypatch):
    monkeypatch.setattr(waiting, "REREAD_S", 0.02)
    job_id = unserved.run_manifest(line(3))
    started = threading.Event()
    with ThreadPoolExecutor(1, initializer=started.set) as pool:
        wait = pool.submit(unserved.wait_for_job, job_id)
        wait_until(lambda: subscribers(server.client, job_id))
        server.client.delete(keys_of(unserved).job(job_id))
        with pytest.raises(JobNotFound):
            wait.result(timeout=30)
