"""The ends of jobs for asyncio: all waits of one event loop share one subscription and a few connections for reads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.exceptions import TimeoutError as RedisTimeoutError

from mirrorneuron.api.waiting import PATIENT_S, REREAD_S, Deadline
from mirrorneuron.errors import JobNotFound
from mirrorneuron.job import TERMINAL, JobMap, JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store import records
from mirrorneuron.store.connection import RETRY_S, UNREACHABLE, RedisClient, connect_async, handed_on_async
from mirrorneuron.store.job_store import FAIL_FAST_S
from mirrorneuron.store.keys import Keys, result_channel

READERS: Final = 8  # concurrent reads of records, each on one connection


def cancels() -> int:
    """The number of cancellation requests of the current task."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


class EndsListener:
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
