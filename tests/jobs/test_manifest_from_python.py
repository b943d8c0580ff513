"""A manifest that Python makes, with a payloads folder, as a job."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mirrorneuron import aio
from mirrorneuron.api.client import Client
from tests.support.graphs import PATIENCE_MS, executor, manifest


def test_a_manifest_from_python_runs_with_its_payloads(client: Client, tmp_path: Path) -> None:
    (tmp_path / "say.sh").write_text("echo from the payloads")
    graph = manifest([executor("work", "sh say.sh", upload_path="say.sh", complete_job=True)])
    _, job = client.run_manifest(graph, payloads=tmp_path, await_=True, timeout=PATIENCE_MS)
    other = aio.Client(client.settings).run_manifest(graph, payloads=str(tmp_path), await_=True, timeout=PATIENCE_MS)
    for ended in (job, asyncio.run(other)[1]):
        assert ended["result"] is not None
        assert ended["result"]["output"]["sandbox"]["stdout"] == "from the payloads\n", ended
