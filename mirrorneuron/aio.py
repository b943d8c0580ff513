"""The job API for asyncio: the same calls as coroutines, on a default client or on `aio.Client(settings)`.

Calls are a few round trips and run in threads of the client, not in those of the loop's executor. Waits and streams
hold no thread: all waits of one process share one subscription, so that a thousand of them use one connection, and each
open stream has a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final, Literal, TypeVar, overload

from celery.result import AsyncResult

from mirrorneuron.api import arguments, client
from mirrorneuron.api.async_streams import follow_events, follow_logs
from mirrorneuron.api.client import Inputs, Metadata, SubmitTimeout
from mirrorneuron.api.default_client import default_client
from mirrorneuron.api.waiting import Deadline, Timeout, until_ended_async
from mirrorneuron.bundle.load import BundleInput, JobBundle, Payloads
from mirrorneuron.bundle.load import validate_manifest as _validate
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.diagnostics.job_diagnosis import Diagnosis
from mirrorneuron.job import (
    AgentSnapshot,
    ClusterOverview,
    DeadLetter,
    Event,
    JobDetails,
    JobMap,
    JobSummary,
    LogChunk,
    NodeInfo,
)
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import reaching

__all__ = [
    "Client",
    "async_result",
    "cancel",
    "cleanup_jobs",
    "cluster_overview",
    "dead_letters",
    "events",
    "inspect_agents",
    "inspect_job",
    "inspect_nodes",
    "job_details",
    "job_manifest",
    "list_jobs",
    "logs",
    "pause",
    "replay",
    "resume",
    "retry",
    "run_manifest",
    "send_message",
    "stream_events",
    "validate_manifest",
    "wait_for_job",
    "why",
]

T = TypeVar("T")


class Client:
    """`mirrorneuron.Client` for asyncio. May be used from several event loops, in turn or concurrently."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._own: client.Client | None = client.Client(settings) if settings else None

    @property
    def sync(self) -> client.Client:
        """The blocking client that this client uses."""
        return self._own or default_client

    @overload
    async def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        inputs: Inputs = None,
        metadata: Metadata = None,
        payloads: Payloads = None,
        await_: Literal[False] = False,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
        submit_timeout: SubmitTimeout = None,
    ) -> str: ...

    @overload
    async def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        inputs: Inputs = None,
        metadata: Metadata = None,
        payloads: Payloads = None,
        await_: Literal[True],
        timeout: Timeout = None,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
        submit_timeout: SubmitTimeout = None,
    ) -> tuple[str, JobMap]: ...

    async def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        inputs: Inputs = None,
        metadata: Metadata = None,
        payloads: Payloads = None,
        await_: bool = False,
        timeout: Timeout = None,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
        submit_timeout: SubmitTimeout = None,
    ) -> str | tuple[str, JobMap]:
        """`mirrorneuron.run_manifest`. Cancelling the coroutine does not affect the job."""
        if timeout is not None and not await_:
            raise TypeError("timeout requires await_=True")
        deadline, seconds = Deadline.after(timeout), self.sync._submit_seconds(submit_timeout)
        labels, first = arguments.metadata(metadata), arguments.inputs(inputs)
        request, new_id = await self._long(self.sync._prepared, input, payloads, job_bundle, job_id, first)
        await self._call(self.sync._submit, new_id, request, labels, seconds, seconds=seconds)
        return (new_id, await self._wait(new_id, deadline)) if await_ else new_id

    async def wait_for_job(self, job_id: str, timeout: Timeout = None) -> JobMap:
        """`mirrorneuron.wait_for_job`. Cancelling the coroutine does not affect the job."""
        return await self._wait(job_id, Deadline.after(timeout))

    async def _wait(self, job_id: str, deadline: Deadline) -> JobMap:
        arguments.job_id(job_id)
        with reaching(self.sync.settings.redis_url, job_id):
            return await until_ended_async(self.sync._live_parts().store, job_id, deadline)

    async def _call(
        self, call: Callable[..., T], job_id: str, *args: Any, seconds: float | None = None, **options: Any
    ) -> T:
        """One call of the blocking client about a job, with its time-out."""
        with reaching(self.sync.settings.redis_url, job_id):
            calls, do = self.sync._live_parts().store.calls, partial(call, job_id, *args, **options)
            return await calls.run_async(do, seconds or self.sync.settings.client_timeout_s)

    async def _long(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """A call of the blocking client that consists of several calls, each with its time-out."""
        with reaching(self.sync.settings.redis_url):
            calls, do = self.sync._live_parts().long_calls, partial(call, *args, **options)
            return await calls.run_async(do, self.sync.settings.client_timeout_s, until_started=True)

    async def async_result(self, job_id: str) -> AsyncResult:
        """`mirrorneuron.async_result`: its methods block, `get()` until the job has ended; `wait_for_job` does not."""
        return await asyncio.to_thread(self.sync.async_result, job_id)

    async def inspect_job(self, job_id: str) -> JobMap:
        return await self._call(self.sync.inspect_job, job_id)

    async def inspect_agents(self, job_id: str) -> list[AgentSnapshot]:
        return await self._call(self.sync.inspect_agents, job_id)

    async def inspect_nodes(self) -> list[NodeInfo]:
        return await self._long(self.sync.inspect_nodes)

    async def list_jobs(
        self,
        *,
        limit: int | None = None,
        include_terminal: bool = True,
        status: str | None = None,
        metadata: Metadata = None,
    ) -> list[JobSummary]:
        return await self._long(
            self.sync.list_jobs, limit=limit, include_terminal=include_terminal, status=status, metadata=metadata
        )

    async def job_details(self, job_id: str, *, event_limit: int = 25) -> JobDetails:
        return await self._call(self.sync.job_details, job_id, event_limit=event_limit)

    async def cluster_overview(self, *, limit: int | None = None) -> ClusterOverview:
        return await self._long(self.sync.cluster_overview, limit=limit)

    async def events(self, job_id: str, *, after: str | None = None, limit: int | None = None) -> list[Event]:
        return await self._call(self.sync.events, job_id, after=after, limit=limit)

    async def stream_events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """The job's events as they happen, to the one that ends it. Raises JobNotFound at the first iteration."""
        arguments.event_id(after)
        await self.inspect_job(job_id)
        async for event in follow_events(self.sync.settings, job_id, after or "0"):
            yield event

    async def logs(self, job_id: str, agent_id: str | None = None, *, follow: bool = False) -> AsyncIterator[LogChunk]:
        """`mirrorneuron.logs`. Raises JobNotFound and AgentNotFound at the first iteration."""
        chunks = await self._call(self.sync.logs, job_id, agent_id)
        if not follow:
            found: list[LogChunk] = await self._long(list, chunks)
            for chunk in found:
                yield chunk
            return
        async for chunk in follow_logs(self.sync.settings, job_id):
            if agent_id in (None, chunk["agent_id"]):
                yield chunk

    async def job_manifest(self, job_id: str) -> Manifest:
        return await self._call(self.sync.job_manifest, job_id)

    async def pause(self, job_id: str) -> JobMap:
        return await self._call(self.sync.pause, job_id)

    async def resume(self, job_id: str) -> JobMap:
        return await self._call(self.sync.resume, job_id)

    async def cancel(self, job_id: str, *, reason: str | None = None) -> JobMap:
        return await self._call(self.sync.cancel, job_id, reason=reason)

    async def send_message(self, job_id: str, agent_id: str, message: Any) -> str:
        return await self._call(self.sync.send_message, job_id, agent_id, message)

    async def retry(self, job_id: str, *, from_agent: str | None = None) -> JobMap:
        return await self._call(self.sync.retry, job_id, from_agent=from_agent)

    async def why(self, job_id: str) -> Diagnosis:
        return await self._call(self.sync.why, job_id)

    async def dead_letters(self, job_id: str) -> list[DeadLetter]:
        return await self._call(self.sync.dead_letters, job_id)

    async def replay(self, job_id: str, message_id: str, *, to_agent: str | None = None) -> str:
        return await self._call(self.sync.replay, job_id, message_id, to_agent=to_agent)

    async def cleanup_jobs(self, *, all: bool = False, older_than: timedelta | None = None) -> list[str]:
        return await self._long(self.sync.cleanup_jobs, all=all, older_than=older_than)


_default: Final = Client()

run_manifest = _default.run_manifest
wait_for_job = _default.wait_for_job
async_result = _default.async_result
inspect_job = _default.inspect_job
inspect_agents = _default.inspect_agents
inspect_nodes = _default.inspect_nodes
list_jobs = _default.list_jobs
job_details = _default.job_details
cluster_overview = _default.cluster_overview
events = _default.events
stream_events = _default.stream_events
job_manifest = _default.job_manifest
logs = _default.logs
pause = _default.pause
resume = _default.resume
cancel = _default.cancel
send_message = _default.send_message
retry = _default.retry
why = _default.why
dead_letters = _default.dead_letters
replay = _default.replay
cleanup_jobs = _default.cleanup_jobs


async def validate_manifest(input: BundleInput, *, payloads: Payloads = None) -> JobBundle:
    """`mirrorneuron.validate_manifest` in a thread: a bundle may have many files."""
    return await asyncio.to_thread(_validate, input, payloads=payloads)
