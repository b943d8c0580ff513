"""The types of the public functions, as a caller's type checker sees them. mypy reads this file; nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import assert_type

import mirrorneuron
from mirrorneuron import aio


def submissions(bundle: mirrorneuron.JobBundle, client: mirrorneuron.Client) -> None:
    assert_type(mirrorneuron.validate_manifest("folder"), mirrorneuron.JobBundle)
    assert_type(mirrorneuron.run_manifest("folder"), str)
    assert_type(mirrorneuron.run_manifest(job_bundle=bundle, job_id="nightly"), str)
    assert_type(mirrorneuron.run_manifest("folder", inputs={"a": {"n": 1}}), str)
    assert_type(mirrorneuron.run_manifest("folder", await_=True), tuple[str, mirrorneuron.JobMap])
    assert_type(mirrorneuron.run_manifest("folder", await_=True, timeout=5_000), tuple[str, mirrorneuron.JobMap])
    assert_type(client.run_manifest({}, await_=True, timeout=timedelta(seconds=5)), tuple[str, mirrorneuron.JobMap])
    assert_type(mirrorneuron.wait_for_job("job", timeout=None), mirrorneuron.JobMap)


async def coroutines() -> None:
    assert_type(await aio.run_manifest("folder"), str)
    assert_type(await aio.run_manifest("folder", await_=True), tuple[str, mirrorneuron.JobMap])
    assert_type(await aio.wait_for_job("job"), mirrorneuron.JobMap)
    async for event in aio.stream_events("job"):
        assert_type(event, mirrorneuron.Event)


def readers() -> None:
    assert_type(mirrorneuron.inspect_job("job"), mirrorneuron.JobMap)
    assert_type(mirrorneuron.inspect_agents("job"), list[mirrorneuron.AgentSnapshot])
    assert_type(mirrorneuron.events("job"), list[mirrorneuron.Event])
    assert_type(mirrorneuron.stream_events("job"), Iterator[mirrorneuron.Event])
    assert_type(mirrorneuron.logs("job"), Iterator[mirrorneuron.LogChunk])
    assert_type(mirrorneuron.list_jobs(limit=3), list[mirrorneuron.JobSummary])
    assert_type(mirrorneuron.inspect_nodes(), list[mirrorneuron.NodeInfo])
    assert_type(mirrorneuron.why("job"), mirrorneuron.Diagnosis)
    assert_type(mirrorneuron.inspect_job("job")["status"], str)


def refused(bundle: mirrorneuron.JobBundle) -> None:
    """Each ignored error must occur: an ignore without its error is an error itself."""
    mirrorneuron.run_manifest("folder", timeout=5_000)  # type: ignore[call-overload]
    mirrorneuron.run_manifest(bundle, await_="yes")  # type: ignore[call-overload]
    mirrorneuron.wait_for_job(5)  # type: ignore[arg-type]
    mirrorneuron.inspect_job("job")["colour"]  # type: ignore[typeddict-item]
