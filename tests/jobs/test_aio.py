"""mirrorneuron.aio: the same calls as coroutines, and many waits on one connection."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import redis

from mirrorneuron import JobNotFound, JobStateError, ManifestError, MessageNotFound, WaitTimeout, aio
from mirrorneuron.api.client import Client
from tests.support.graphs import PATIENCE_MS, finish, line, single, until_there
from tests.support.waiting import wait_until


def subscribed(server: redis.Redis, job_ids: list[str]) -> int:
    """The number of these jobs with a subscriber."""
    return sum(count > 0 for _, count in server.pubsub_numsub(*(f"celery-task-meta-{name}" for name in job_ids)))


async def until(fact) -> None:
    """Wait for *fact* without blocking the event loop."""
    await asyncio.to_thread(wait_until, fact)


def subscriptions(server: redis.Redis) -> list[int]:
    """The number of channels of each subscribed connection."""
    return [int(row["sub"]) for row in server.client_list() if int(row["sub"])]


async def gathered_waits(unserved: Client, server: redis.Redis, count: int) -> list[str]:
    client = aio.Client(unserved.settings)
    ids = [unserved.run_manifest(line(3), job_id=f"job-{number}") for number in range(count)]
    waits = asyncio.gather(*(client.wait_for_job(job_id) for job_id in ids))
    await until(lambda: subscribed(server, ids) == count)
    assert count in subscriptions(server)
    for job_id in ids:
        finish(unserved, job_id)
    return [job["status"] for job in await waits]


@pytest.mark.parametrize("count", [6, 50])
def test_waits_share_one_connection(unserved, server, count):
    """One connection, even if all waits start at once; each wait gets the end of its own job."""
    found = asyncio.run(gathered_waits(unserved, server.client, count))
    assert found == ["cancelled"] * count
    wait_until(lambda: count not in subscriptions(server.client))


def test_a_cancelled_wait_affects_neither_the_job_nor_other_waits(unserved, server):
    async def main() -> str:
        client = aio.Client(unserved.settings)
        job_id = await client.run_manifest(line(3))
        given_up, other = (asyncio.create_task(client.wait_for_job(job_id)) for _ in range(2))
        await until(lambda: subscribed(server.client, [job_id]))
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert (await client.inspect_job(job_id))["status"] == "pending"
        finish(unserved, job_id)
        return (await other)["status"]

    assert asyncio.run(main()) == "cancelled"


def test_a_cancelled_wait_releases_its_subscription(unserved, server):
    async def main() -> None:
        client = aio.Client(unserved.settings)
        one, other = [await client.run_manifest(line(3)) for _ in range(2)]
        given_up, kept = (asyncio.create_task(client.wait_for_job(job_id)) for job_id in (one, other))
        await until(lambda: subscribed(server.client, [one, other]) == 2)
        given_up.cancel()
        await until(lambda: subscribed(server.client, [one, other]) == 1)
        finish(unserved, other)
        await kept

    asyncio.run(main())


def test_one_client_serves_two_event_loops_at_once(unserved, server):
    client = aio.Client(unserved.settings)
    job_id = unserved.run_manifest(line(3))
    with ThreadPoolExecutor(2) as pool:
        loops = [pool.submit(lambda: asyncio.run(client.wait_for_job(job_id))) for _ in range(2)]
        channel = f"celery-task-meta-{job_id}"
        # Both wait, and share one subscription.
        wait_until(lambda: len(client.sync._live_parts().store.ends._waits.get(channel, ())) == 2)
        wait_until(lambda: dict(server.client.pubsub_numsub(channel))[channel.encode()] == 1)
        finish(unserved, job_id)
        assert [loop.result(timeout=30)["status"] for loop in loops] == ["cancelled"] * 2
    assert asyncio.run(client.wait_for_job(job_id))["status"] == "cancelled"


def test_a_job_is_submitted_and_awaited(client):
    async def main() -> None:
        job_id, job = await aio.Client(client.settings).run_manifest(line(3), await_=True, timeout=PATIENCE_MS)
        assert job == client.inspect_job(job_id)
        assert job["status"] == "completed"

    asyncio.run(main())


def test_a_timeout_does_not_affect_the_job(unserved):
    async def main() -> None:
        client = aio.Client(unserved.settings)
        with pytest.raises(WaitTimeout) as caught:
            await client.run_manifest(line(3), await_=True, timeout=20)
        assert caught.value.job_id is not None
        with pytest.raises(WaitTimeout):
            await client.wait_for_job(caught.value.job_id, timeout=20)
        assert (await client.inspect_job(caught.value.job_id))["status"] == "pending"

    asyncio.run(main())


def test_errors_are_those_of_the_blocking_calls(unserved):
    async def main() -> None:
        client = aio.Client(unserved.settings)
        with pytest.raises(JobNotFound):
            await client.wait_for_job("nobody")
        with pytest.raises(JobNotFound):
            await anext(client.stream_events("nobody"))
        with pytest.raises(ManifestError):
            await client.run_manifest({"nodes": []})
        with pytest.raises(TypeError):
            await client.run_manifest(line(3), timeout=5)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            await client.run_manifest()
        assert await client.list_jobs() == []

    asyncio.run(main())


def test_inspection_returns_what_the_blocking_calls_return(client):
    async def main() -> None:
        other = aio.Client(client.settings)
        job_id, _ = await other.run_manifest(line(3), await_=True, timeout=PATIENCE_MS)
        assert await other.inspect_job(job_id) == client.inspect_job(job_id)
        assert await other.inspect_agents(job_id) == client.inspect_agents(job_id)
        assert await other.events(job_id, limit=4) == client.events(job_id, limit=4)
        assert await other.job_details(job_id, event_limit=2) == client.job_details(job_id, event_limit=2)
        assert await other.list_jobs(limit=1) == client.list_jobs(limit=1)
        assert (await other.cluster_overview(limit=1)).keys() == client.cluster_overview(limit=1).keys()
        assert [n["name"] for n in await other.inspect_nodes()] == [n["name"] for n in client.inspect_nodes()]

    asyncio.run(main())


def test_a_stream_of_events_is_live_and_ends_with_the_job(client, outside):
    async def main() -> list[str]:
        other, seen = aio.Client(client.settings), []
        job_id = await other.run_manifest(single(until_there(outside / "gate")))
        async for event in other.stream_events(job_id):
            seen.append(event["type"])
            if event["type"] == "executor_lease_acquired":
                (outside / "gate").touch()
        return seen

    assert asyncio.run(main())[-1] == "job_completed"


def test_a_bundle_is_validated_in_a_thread(tmp_path):
    assert asyncio.run(aio.validate_manifest(line(3))).manifest.graph_id == "graph"
    with pytest.raises(ManifestError):
        asyncio.run(aio.validate_manifest(tmp_path / "nowhere"))


STREAMS = 40  # more than the default executor of an event loop has threads


def test_open_streams_hold_no_thread_of_the_event_loop(unserved, server):
    """Other calls are answered while many streams are open; a cancelled stream frees its connection."""

    async def main() -> None:
        client = aio.Client(unserved.settings)
        job_id = await client.run_manifest(line(3))
        seen = 0

        async def follow(stream) -> None:
            nonlocal seen
            async for _ in stream:
                seen += 1

        events = [asyncio.create_task(follow(client.stream_events(job_id))) for _ in range(STREAMS)]
        logs = [asyncio.create_task(follow(client.logs(job_id, follow=True))) for _ in range(STREAMS)]
        async with asyncio.timeout(60):
            while seen < 2 * STREAMS:  # job_pending and job_validated
                await asyncio.sleep(0.01)
            assert (await client.inspect_job(job_id))["status"] == "pending"
            for stream in (*events[1:], *logs[1:]):
                stream.cancel()
            given_up = await asyncio.gather(*events[1:], *logs[1:], return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in given_up)
            await client.cancel(job_id, reason="enough")
            await asyncio.gather(events[0], logs[0])
        assert seen == 2 * STREAMS + 1  # the end, for the stream that is left

    asyncio.run(main())
    wait_until(lambda: not [row for row in server.client.client_list() if row["cmd"] == "xread"])


def test_control_has_the_same_calls(client, outside):
    async def main() -> None:
        own = aio.Client(client.settings)
        job_id = await own.run_manifest(single(f"echo out; until [ -e {outside}/go ]; do sleep 0.02; done"))
        chunks = [chunk async for chunk in own.logs(job_id)]
        async for chunk in own.logs(job_id, "work", follow=True):
            chunks.append(chunk)
            assert (await own.pause(job_id))["status"] == "paused"
            assert (await own.why(job_id))["cause"] == "paused"
            assert (await own.resume(job_id))["status"] == "running"
            (outside / "go").touch()
        assert "out" in "".join(chunk["text"] for chunk in chunks)
        assert (await own.wait_for_job(job_id))["status"] == "completed"
        assert [await own.dead_letters(job_id), (await own.job_manifest(job_id)).graph_id] == [[], "graph"]
        for call in (own.send_message(job_id, "work", {}), own.retry(job_id), own.cancel(job_id)):
            with pytest.raises(JobStateError):
                await call
        with pytest.raises(MessageNotFound):
            await own.replay(job_id, "none")
        with pytest.raises(JobNotFound):
            async for _ in own.stream_events("no-such-job"):
                pass
        assert job_id not in await own.cleanup_jobs(older_than=timedelta(days=1))

    asyncio.run(main())
