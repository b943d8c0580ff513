"""The job API for asyncio: the same calls as coroutines, on a default client or on `aio.Client(settings)`.

Calls are a few round trips and run in a thread. Waits and streams need no thread: all waits of one event loop share
one subscription, so that a thousand of them use one connection, and each open stream has a connection of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, Literal, overload
from weakref import WeakKeyDictionary

from celery.result import AsyncResult

from mirrorneuron.api import arguments, client
from mirrorneuron.api.async_streams import follow_events, follow_logs
from mirrorneuron.api.default_client import default_client
from mirrorneuron.api.ends_listener import EndsListener, cancels
from mirrorneuron.api.waiting import REREAD_S, Deadline, Timeout
from mirrorneuron.bundle.load import BundleInput, JobBundle
from mirrorneuron.bundle.load import validate_manifest as _validate
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.diagnostics.job_diagnosis import Diagnosis
from mirrorneuron.errors import WaitTimeout
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
from mirrorneuron.store.connection import (
    MAX_OUTAGE_S,
    RETRY_S,
    UNREACHABLE,
    reaching,
)

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


class Client:
    """`mirrorneuron.Client` for asyncio. May be used from several event loops, in turn or concurrently."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._ends: WeakKeyDictionary[asyncio.AbstractEventLoop, EndsListener] = WeakKeyDictionary()
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
        await_: Literal[False] = False,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
    ) -> str: ...

    @overload
    async def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        await_: Literal[True],
        timeout: Timeout = None,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
    ) -> tuple[str, JobMap]: ...

    async def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        await_: bool = False,
        timeout: Timeout = None,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
    ) -> str | tuple[str, JobMap]:
        """`mirrorneuron.run_manifest`. Cancelling the coroutine does not affect the job."""
        if timeout is not None and not await_:
            raise TypeError("timeout requires await_=True")
        deadline = Deadline.after(timeout)
        submitted = await asyncio.to_thread(self.sync.run_manifest, input, job_bundle=job_bundle, job_id=job_id)
        if not await_:
            return submitted
        return submitted, await self._wait(submitted, deadline)

    async def wait_for_job(self, job_id: str, timeout: Timeout = None) -> JobMap:
        """`mirrorneuron.wait_for_job`. Cancelling the coroutine does not affect the job."""
        return await self._wait(job_id, Deadline.after(timeout))

    async def _wait(self, job_id: str, deadline: Deadline) -> JobMap:
        arguments.job_id(job_id)
        loop = asyncio.get_running_loop()
        ends = self._ends.get(loop)
        if ends is None or ends.pid != os.getpid():
            ends = self._ends[loop] = EndsListener(self.sync.settings)
        with reaching(self.sync.settings.redis_url, job_id):
            async with ends.connected():
                before = cancels()
                away_since: float | None = None
                answered = False
                while True:
                    try:
                        if job := await ends.read(job_id, deadline):
                            return job
                        answered, away_since = True, None
                        return await self._pushed(ends, job_id, deadline, before)
                    except UNREACHABLE:
                        away_since = away_since or time.monotonic()
                        # Fail at once if the store has never answered.
                        if not answered or time.monotonic() - away_since > MAX_OUTAGE_S:
                            raise
                        await asyncio.sleep(deadline.left(RETRY_S))
                        if deadline.over:
                            raise WaitTimeout(
                                f"job {job_id!r} has not ended, and the job store does not answer", job_id
                            ) from None

    async def _pushed(self, ends: EndsListener, job_id: str, deadline: Deadline, before: int) -> JobMap:
        async with ends.listening(job_id) as news:
            while True:
                # redis-py sends with `asyncio.wait_for`, which may lose a cancellation before Python 3.12.
                if cancels() > before:
                    raise asyncio.CancelledError
                with suppress(TimeoutError):  # a push may get lost: read again
                    async with asyncio.timeout(deadline.left(REREAD_S)):
                        await news.wait()
                news.clear()
                if job := await ends.read(job_id, deadline):
                    return job
                if deadline.over:
                    raise WaitTimeout(f"job {job_id!r} has not ended in time; it continues", job_id)

    async def async_result(self, job_id: str) -> AsyncResult:
        """`mirrorneuron.async_result`: its methods block, `get()` until the job has ended; `wait_for_job` does not."""
        return await asyncio.to_thread(self.sync.async_result, job_id)

    async def inspect_job(self, job_id: str) -> JobMap:
        return await asyncio.to_thread(self.sync.inspect_job, job_id)

    async def inspect_agents(self, job_id: str) -> list[AgentSnapshot]:
        return await asyncio.to_thread(self.sync.inspect_agents, job_id)

    async def inspect_nodes(self) -> list[NodeInfo]:
        return await asyncio.to_thread(self.sync.inspect_nodes)

    async def list_jobs(
        self, *, limit: int | None = None, include_terminal: bool = True, status: str | None = None
    ) -> list[JobSummary]:
        return await asyncio.to_thread(
            self.sync.list_jobs, limit=limit, include_terminal=include_terminal, status=status
        )

    async def job_details(self, job_id: str, *, event_limit: int = 25) -> JobDetails:
        return await asyncio.to_thread(self.sync.job_details, job_id, event_limit=event_limit)

    async def cluster_overview(self, *, limit: int | None = None) -> ClusterOverview:
        return await asyncio.to_thread(self.sync.cluster_overview, limit=limit)

    async def events(self, job_id: str, *, after: str | None = None, limit: int | None = None) -> list[Event]:
        return await asyncio.to_thread(self.sync.events, job_id, after=after, limit=limit)

    async def stream_events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """The job's events as they happen, to the one that ends it. Raises JobNotFound at the first iteration."""
        arguments.event_id(after)
        async for event in follow_events(self.sync.settings, job_id, after or "0"):
            yield event

    async def logs(self, job_id: str, agent_id: str | None = None, *, follow: bool = False) -> AsyncIterator[LogChunk]:
        """`mirrorneuron.logs`. Raises JobNotFound and AgentNotFound at the first iteration."""
        chunks = await asyncio.to_thread(self.sync.logs, job_id, agent_id)
        if not follow:
            for chunk in await asyncio.to_thread(list, chunks):
                yield chunk
            return
        async for chunk in follow_logs(self.sync.settings, job_id):
            if agent_id in (None, chunk["agent_id"]):
                yield chunk

    async def job_manifest(self, job_id: str) -> Manifest:
        return await asyncio.to_thread(self.sync.job_manifest, job_id)

    async def pause(self, job_id: str) -> JobMap:
        return await asyncio.to_thread(self.sync.pause, job_id)

    async def resume(self, job_id: str) -> JobMap:
        return await asyncio.to_thread(self.sync.resume, job_id)

    async def cancel(self, job_id: str, *, reason: str | None = None) -> JobMap:
        return await asyncio.to_thread(self.sync.cancel, job_id, reason=reason)

    async def send_message(self, job_id: str, agent_id: str, message: Any) -> str:
        return await asyncio.to_thread(self.sync.send_message, job_id, agent_id, message)

    async def retry(self, job_id: str, *, from_agent: str | None = None) -> JobMap:
        return await asyncio.to_thread(self.sync.retry, job_id, from_agent=from_agent)

    async def why(self, job_id: str) -> Diagnosis:
        return await asyncio.to_thread(self.sync.why, job_id)

    async def dead_letters(self, job_id: str) -> list[DeadLetter]:
        return await asyncio.to_thread(self.sync.dead_letters, job_id)

    async def replay(self, job_id: str, message_id: str, *, to_agent: str | None = None) -> str:
        return await asyncio.to_thread(self.sync.replay, job_id, message_id, to_agent=to_agent)

    async def cleanup_jobs(self, *, all: bool = False, older_than: timedelta | None = None) -> list[str]:
        return await asyncio.to_thread(self.sync.cleanup_jobs, all=all, older_than=older_than)


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


async def validate_manifest(input: BundleInput) -> JobBundle:
    """`mirrorneuron.validate_manifest` in a thread: a bundle may have many files."""
    return await asyncio.to_thread(_validate, input)
