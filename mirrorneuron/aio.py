"""The job API for asyncio: the same calls as coroutines, on a default client or on `aio.Client(settings)`.

Calls are a few round trips and run in a thread. Waits need no thread: all waits of one event loop share one
subscription, so that a thousand of them use one connection.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Literal, overload
from weakref import WeakKeyDictionary

from redis.exceptions import TimeoutError as RedisTimeoutError

from mirrorneuron.api import arguments, client
from mirrorneuron.api.default_client import default_client
from mirrorneuron.api.waiting import PATIENT_S, REREAD_S, Deadline, Timeout
from mirrorneuron.bundle.load import BundleInput, JobBundle
from mirrorneuron.bundle.load import validate_manifest as _validate
from mirrorneuron.errors import JobNotFound, WaitTimeout
from mirrorneuron.job import (
    TERMINAL,
    AgentSnapshot,
    ClusterOverview,
    Event,
    JobDetails,
    JobMap,
    JobStatus,
    JobSummary,
    NodeInfo,
)
from mirrorneuron.settings import Settings
from mirrorneuron.store import records
from mirrorneuron.store.connection import (
    MAX_OUTAGE_S,
    RETRY_S,
    UNREACHABLE,
    RedisClient,
    connect_async,
    handed_on_async,
    reaching,
)
from mirrorneuron.store.job_store import FAIL_FAST_S
from mirrorneuron.store.keys import Keys, result_channel

READERS: Final = 8  # concurrent reads of records, each on one connection

__all__ = [
    "Client",
    "cluster_overview",
    "events",
    "inspect_agents",
    "inspect_job",
    "inspect_nodes",
    "job_details",
    "list_jobs",
    "run_manifest",
    "stream_events",
    "validate_manifest",
    "wait_for_job",
]


class Client:
    """`mirrorneuron.Client` for asyncio. May be used from several event loops, in turn or concurrently."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._ends: WeakKeyDictionary[asyncio.AbstractEventLoop, _Ends] = WeakKeyDictionary()
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
            ends = self._ends[loop] = _Ends(self.sync.settings)
        with reaching(self.sync.settings.redis_url, job_id):
            async with ends.connected():
                cancels = _cancels()
                away_since: float | None = None
                answered = False
                while True:
                    try:
                        if job := await ends.read(job_id, deadline):
                            return job
                        answered, away_since = True, None
                        return await self._pushed(ends, job_id, deadline, cancels)
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

    async def _pushed(self, ends: _Ends, job_id: str, deadline: Deadline, cancels: int) -> JobMap:
        async with ends.listening(job_id) as news:
            while True:
                # redis-py sends with `asyncio.wait_for`, which may lose a cancellation before Python 3.12.
                if _cancels() > cancels:
                    raise asyncio.CancelledError
                with suppress(TimeoutError):  # a push may get lost: read again
                    async with asyncio.timeout(deadline.left(REREAD_S)):
                        await news.wait()
                news.clear()
                if job := await ends.read(job_id, deadline):
                    return job
                if deadline.over:
                    raise WaitTimeout(f"job {job_id!r} has not ended in time; it continues", job_id)

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
        found = await asyncio.to_thread(self.sync.stream_events, job_id, after=after)
        while (event := await asyncio.to_thread(next, found, None)) is not None:
            yield event


def _cancels() -> int:
    """The number of cancellation requests of the current task."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


class _Ends:
    """Waits of one event loop for the ends of jobs, on one subscription; closed when the last wait is over."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self._url = settings.redis_url
        self._keys = Keys(settings.redis_namespace)
        self._news: dict[str, set[asyncio.Event]] = {}  #: channel -> one event for each wait
        self._waits = 0
        self._reads = asyncio.Semaphore(READERS)
        self._server: RedisClient = None
        self._pubsub: RedisClient = None
        self._listener: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  #: set when the set of channels has changed

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold the connections for one wait; concurrent waits share them."""
        self._waits += 1
        if self._server is None:
            self._server = connect_async(self._url)
            self._pubsub = self._server.pubsub(push_handler_func=handed_on_async)
        try:
            yield
        finally:
            self._waits -= 1
            if not self._waits:
                await self._close()

    async def _close(self) -> None:
        server, pubsub, listener = self._server, self._pubsub, self._listener
        self._server = self._pubsub = self._listener = None
        if listener is not None:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
        await pubsub.aclose()
        await server.aclose()

    async def read(self, job_id: str, deadline: Deadline) -> JobMap | None:
        """The job map of an ended job, None if live. Raises JobNotFound, and UNREACHABLE soon after the deadline."""
        try:
            async with asyncio.timeout(deadline.left(PATIENT_S) + FAIL_FAST_S), self._reads:
                job = records.job_map(job_id, await self._server.hmget(self._keys.job(job_id), records.JOB_FIELDS))
        except TimeoutError:
            raise RedisTimeoutError("no answer in time") from None
        if job is None:
            raise JobNotFound(job_id)
        return job if JobStatus(job["status"]) in TERMINAL else None

    @asynccontextmanager
    async def listening(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the job may have ended: at each push, and when the subscription is confirmed."""
        channel, news = result_channel(job_id), asyncio.Event()
        waits = self._news.setdefault(channel, set())
        if waits:  # the subscription may be confirmed already
            news.set()
        waits.add(news)
        self._changed.set()
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        try:
            yield news
        finally:
            waits.discard(news)
            if not waits and self._news.get(channel) is waits:
                del self._news[channel]
                self._changed.set()

    async def _listen(self) -> None:
        """Subscribe to the channels of the waits, and wake them. Only this task uses the subscription.

        Any call on it may reconnect, and two concurrent ones would read each other's replies.
        """
        pubsub, have = self._pubsub, set[str]()
        while self._pubsub is pubsub:
            self._changed.clear()
            try:
                if new := self._news.keys() - have:
                    await pubsub.subscribe(*new)
                    have |= new
                if old := have - self._news.keys():
                    await pubsub.unsubscribe(*old)
                    have -= old
                if self._pubsub is not pubsub:  # a cancellation may get lost while sending, see `_pushed`
                    return
                if not have:
                    await self._changed.wait()
                    continue
                message = await self._next(pubsub)
            except UNREACHABLE:  # redis-py reconnects and subscribes again; the confirmations then wake the waits
                await asyncio.sleep(RETRY_S)
                continue
            if message is not None and message["type"] in ("message", "subscribe"):
                for news in self._news.get(message["channel"].decode(), ()):
                    news.set()

    async def _next(self, pubsub: RedisClient) -> dict[str, Any] | None:
        """The next message of the subscription; None if none arrived, or if the channels have changed first."""
        reading = asyncio.ensure_future(pubsub.get_message(timeout=REREAD_S))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((reading, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, changed):
                task.cancel()
            await asyncio.gather(reading, changed, return_exceptions=True)
        return None if reading.cancelled() else reading.result()


_default: Final = Client()

run_manifest = _default.run_manifest
wait_for_job = _default.wait_for_job
inspect_job = _default.inspect_job
inspect_agents = _default.inspect_agents
inspect_nodes = _default.inspect_nodes
list_jobs = _default.list_jobs
job_details = _default.job_details
cluster_overview = _default.cluster_overview
events = _default.events
stream_events = _default.stream_events


async def validate_manifest(input: BundleInput) -> JobBundle:
    """`mirrorneuron.validate_manifest` in a thread: a bundle may have many files."""
    return await asyncio.to_thread(_validate, input)
