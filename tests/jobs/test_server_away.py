"""An unreachable server: an error that says which server and what to do, within bounded time."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirrorneuron import JobNotFound, RuntimeUnavailable, WaitTimeout, aio
from mirrorneuron.api import waiting
from mirrorneuron.api.client import Client
from mirrorneuron.settings import Settings
from mirrorneuron.store import connection
from tests.support.graphs import finish, line
from tests.support.waiting import wait_until

VERBS = {
    "run_manifest": lambda client: client.run_manifest(line(3)),
    "inspect_job": lambda client: client.inspect_job("job"),
    "inspect_agents": lambda client: client.inspect_agents("job"),
    "events": lambda client: client.events("job"),
    "stream_events": lambda client: client.stream_events("job"),
    "job_details": lambda client: client.job_details("job"),
    "list_jobs": lambda client: client.list_jobs(),
    "inspect_nodes": lambda client: client.inspect_nodes(),
    "cluster_overview": lambda client: client.cluster_overview(),
    "wait_for_job": lambda client: client.wait_for_job("job"),
}


@pytest.fixture
def away(nobody):
    """The URL of an unreachable server, with a password."""
    return f"redis://:secret@{nobody}/0"


@pytest.fixture
def impatient(monkeypatch):
    """Shorten time-outs of seconds, so that only the number of tries matters."""
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT_S", 0.05)
    monkeypatch.setattr(waiting, "MAX_OUTAGE_S", 0.3)
    monkeypatch.setattr(waiting, "RETRY_S", 0.05)


@pytest.mark.parametrize("verb", VERBS)
def test_the_error_for_an_unreachable_server_names_it(away, verb):
    """Without its password, and with the setting that names it."""
    client = Client(Settings(redis_url=away))
    with pytest.raises(RuntimeUnavailable) as caught:
        VERBS[verb](client)
    text = str(caught.value)
    assert away.replace(":secret@", "***@") in text
    assert "secret" not in text
    assert "MIRROR_NEURON_REDIS_URL" in text
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("verb", ["run_manifest", "wait_for_job"])
def test_calls_to_a_server_that_hangs_time_out(own_server, impatient, verb):
    """It accepts connections and sends no reply: each call fails after a bounded number of tries."""
    client = Client(Settings(redis_url=own_server.url))
    own_server.freeze()
    with pytest.raises(RuntimeUnavailable, match=str(own_server.port)):
        VERBS[verb](client)


def test_a_coroutine_times_out_too(away):
    async def main() -> None:
        client = aio.Client(Settings(redis_url=away))
        for call in (client.run_manifest(line(3)), client.wait_for_job("job"), client.list_jobs()):
            with pytest.raises(RuntimeUnavailable):
                await call

    asyncio.run(main())


def test_a_wait_survives_an_outage_of_the_server(own_server, monkeypatch):
    """The end is found although its push was sent without a subscriber."""
    monkeypatch.setattr(waiting, "RETRY_S", 0.02)
    client = Client(Settings(redis_url=own_server.url))
    job_id = client.run_manifest(line(3))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(client.wait_for_job, job_id, 60_000)
        wait_until(lambda: own_server.client.pubsub_numsub(f"celery-task-meta-{job_id}")[0][1])
        own_server.stop()
        own_server.start()
        finish(client, job_id)
        assert wait.result()["status"] == "cancelled"


def test_a_wait_keeps_its_deadline_while_the_server_is_unreachable(own_server):
    client = Client(Settings(redis_url=own_server.url))
    job_id = client.run_manifest(line(3))
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(client.wait_for_job, job_id, 2_000)
        wait_until(lambda: own_server.client.pubsub_numsub(f"celery-task-meta-{job_id}")[0][1] or wait.done())
        own_server.stop()
        with pytest.raises((WaitTimeout, RuntimeUnavailable)) as caught:
            wait.result()
    assert getattr(caught.value, "job_id", None) == job_id


def test_after_a_loss_of_all_data_a_job_is_not_found(own_server):
    client = Client(Settings(redis_url=own_server.url))
    job_id = client.run_manifest(line(3))
    own_server.flush()
    with pytest.raises(JobNotFound):
        client.wait_for_job(job_id)
    assert client.run_manifest(line(3), job_id=job_id) == job_id  # the bundle is stored again
    assert client.inspect_agents(job_id)[0]["agent_id"] == "r0"


def test_an_unreachable_broker_is_logged_and_the_job_is_submitted(own_server, away, caplog):
    """The record is written, so the id is returned, and the sweeper repeats the announcement."""
    client = Client(Settings(redis_url=own_server.url, broker_url=away))
    with caplog.at_level(logging.ERROR, logger="mirrorneuron"):
        job_id = client.run_manifest(line(3))
    assert client.inspect_job(job_id)["status"] == "pending"
    assert f"job {job_id} is submitted, but its announcement failed" in caplog.text


def test_a_wrong_password_is_reported(own_server):
    own_server.client.config_set("requirepass", "other")
    client = Client(Settings(redis_url=own_server.url.replace("//", "//:wrong@")))
    with pytest.raises(RuntimeUnavailable) as caught:
        client.list_jobs()
    assert "wrong@" not in str(caught.value)
    own_server.client.close()
