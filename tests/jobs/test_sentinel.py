"""A job store behind Sentinel: for the producer, the nodes, the broker and the results of other apps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.result import AsyncResult

from mirrorneuron.api.client import Client
from mirrorneuron.settings import Settings
from tests.support.graphs import completed, single
from tests.support.node import RealNode
from tests.support.valkey import Sentinel, ValkeyServer

SERVICE = "the-store"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Two sentinels, the first unreachable, before a server whose password has special characters of URLs."""
    with ValkeyServer(tmp_path / "server") as server:
        server.client.execute_command("ACL", "SETUSER", "mn", "on", ">p/w,d@", "~*", "&*", "+@all")
        with (
            Sentinel(tmp_path / "gone", server, SERVICE) as gone,
            Sentinel(tmp_path / "there", server, SERVICE) as there,
        ):
            gone.kill()
            url = f"sentinel://mn:p%2Fw%2Cd%40@127.0.0.1:{gone.port},127.0.0.1:{there.port}/{SERVICE}/3"
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
