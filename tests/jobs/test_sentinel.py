"""A job store behind Sentinel: for the producer, the nodes, the broker and the results of other apps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.result import AsyncResult

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import broker_error, make_app
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.settings import Settings
from mirrorneuron.store.keys import Keys
from tests.support.graphs import completed, single, until_there
from tests.support.node import RealNode
from tests.support.valkey import Sentinel, ValkeyServer
from tests.support.waiting import wait_until

SERVICE = "the-store"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An unreachable sentinel, and one with a password, before a server whose password has special characters."""
    with ValkeyServer(tmp_path / "server") as server:
        server.client.execute_command("ACL", "SETUSER", "mn", "on", ">p/w,d@", "~*", "&*", "+@all")
        with (
            Sentinel(tmp_path / "gone", server, SERVICE) as gone,
            Sentinel(tmp_path / "there", server, SERVICE, password="s/p") as there,
        ):
            gone.kill()
            url = f"sentinel://mn:p%2Fw%2Cd%40@127.0.0.1:{gone.port},127.0.0.1:{there.port}/{SERVICE}/3?sentinel_password=s%2Fp"
            yield Settings(redis_url=url, temp_dir=tmp_path / "temp", executor_max_concurrency=1)


def test_a_job_runs_through_sentinels(settings: Settings, tmp_path: Path, celery_app_of) -> None:
    """From submission to Celery's own view of the result."""
    client = Client(settings)
    with RealNode(tmp_path, settings) as node:
        job_id = client.run_manifest(single("echo there"))
        job = client.wait_for_job(job_id, timeout=60_000)
        assert job["result"]["output"]["sandbox"]["stdout"] == "there\n"
        other = celery_app_of(settings)
        assert AsyncResult(job_id, app=other).get(timeout=30)["status"] == "completed"
        assert completed(client, single("true"))
        assert client.why(job_id)
        assert "p%2Fw" not in node.log.read_text()
        assert "s%2Fp" not in node.log.read_text()


def test_a_frozen_primary_keeps_no_worker(tmp_path: Path) -> None:
    """It keeps its connections and does not reply. Every connection of the node notices, and finds the new primary."""
    with ValkeyServer(tmp_path / "old") as old, ValkeyServer(tmp_path / "new") as new:
        old.client.config_set("repl-diskless-sync-delay", 0)
        new.client.execute_command("REPLICAOF", "127.0.0.1", old.port)
        wait_until(lambda: new.client.info("replication")["master_link_status"] == "up")
        with Sentinel(tmp_path / "sentinel", old, SERVICE, down_after_ms=500) as sentinel:
            wait_until(lambda: sentinel.client.info("sentinel")["master0"].get("slaves") == 1)
            url = f"sentinel://127.0.0.1:{sentinel.port}/{SERVICE}/0"
            settings = Settings(redis_url=url, temp_dir=tmp_path / "temp", executor_max_concurrency=2)
            client = Client(settings)
            with RealNode(tmp_path, settings):
                gate = tmp_path / "gate"
                running = client.run_manifest(single(until_there(gate)))
                wait_until(lambda: client.inspect_agents(running)[0]["status"] == "running")
                claims = Keys(settings.redis_namespace).claims(running)
                wait_until(lambda: new.client.exists(claims))  # replication is asynchronous
                old.freeze()
                try:
                    wait_until(lambda: new.client.info("replication")["role"] == "master")
                    gate.touch()
                    job = client.wait_for_job(running, timeout=120_000)
                    assert (job["status"], job["result"]["output"]["sandbox"]["attempts"]) == ("completed", 1)
                    assert completed(client, single("true"))
                finally:
                    old.thaw()


@pytest.mark.parametrize(
    ("query", "said"),
    [("", "asks for a password (sentinel_password=)"), ("?sentinel_password=wrong", "refuses its user or password")],
)
def test_a_sentinel_that_refuses_is_named_in_one_short_line(
    server: ValkeyServer, tmp_path: Path, query: str, said: str
) -> None:
    with Sentinel(tmp_path / "there", server, SERVICE, password="secret") as there:
        settings = Settings(redis_url=f"sentinel://127.0.0.1:{there.port}/{SERVICE}/0{query}")
        with pytest.raises(RuntimeUnavailable) as caught:
            Client(settings).list_jobs()
        text = str(caught.value)
        assert f"the sentinel at 127.0.0.1:{there.port} {said}" in text
        assert (len(text) < 350, "\n" in text, "wrong" in text) == (True, False, False)
        assert "does not answer" in broker_error(make_app(settings))


def test_a_service_that_no_sentinel_knows_is_named(server: ValkeyServer, tmp_path: Path) -> None:
    with Sentinel(tmp_path / "there", server, SERVICE) as there:
        client = Client(Settings(redis_url=f"sentinel://127.0.0.1:{there.port}/other/0"))
        with pytest.raises(RuntimeUnavailable, match="knows no primary of 'other'"):
            client.list_jobs()
