"""Streams of a job for asyncio: its events, and the output of its agents. Each has one connection, and no thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from mirrorneuron.api import arguments
from mirrorneuron.api.streams import EVENTS_MS, LAST_WORDS_MS, LOGS_MS
from mirrorneuron.errors import JobNotFound, RuntimeUnavailable
from mirrorneuron.job import TERMINAL, Event, JobStatus, LogChunk
from mirrorneuron.settings import Settings
from mirrorneuron.store import records
from mirrorneuron.store.connection import MAX_OUTAGE_S, RETRY_S, RedisClient, block_ms, connect_async, reaching
from mirrorneuron.store.keys import Keys
from mirrorneuron.store.status_index import PAGE

T = TypeVar("T", Event, LogChunk)


async def follow_events(settings: Settings, job_id: str, after: str) -> AsyncIterator[Event]:
    """Yield the events after the event id *after*, up to the event that ends the job. Raises JobNotFound."""
    key, read = Keys(settings.redis_namespace).events(job_id), partial(records.event, job_id)
    async with aclosing(_follow(settings, job_id, key, read, after, EVENTS_MS, 0)) as found:
        async for event, ended in found:
            yield event
            if ended and records.ends_the_job(event):
                return


async def follow_logs(settings: Settings, job_id: str) -> AsyncIterator[LogChunk]:
    """The output of all agents, until the job has ended. Raises JobNotFound."""
    key, read = Keys(settings.redis_namespace).logs(job_id), partial(records.log_chunk, job_id)
    async with aclosing(_follow(settings, job_id, key, read, "0", LOGS_MS, LAST_WORDS_MS)) as found:
        async for chunk, _ in found:
            yield chunk


async def _follow(
    settings: Settings, job_id: str, key: str, read: Callable[..., T], after: str, wait_ms: int, last_ms: int
) -> AsyncGenerator[tuple[T, bool], None]:
    """The entries of a stream as they arrive, each with True if the job has ended.

    Ends when the job has ended and *last_ms* pass without an entry. An unreachable store is retried as by the waits.
    """
    arguments.job_id(job_id)
    before, away_since = _cancels(), None
    async with connect_async(settings.redis_url) as server:
        record = Keys(settings.redis_namespace).job(job_id)
        while True:
            if _cancels() > before:  # redis-py sends with `asyncio.wait_for`, which may lose a cancellation before 3.12
                raise asyncio.CancelledError
            try:
                with reaching(settings.redis_url, job_id):
                    ended = await _has_ended(server, record, job_id)
                    rows = await server.xread(
                        {key: after}, count=PAGE, block=block_ms(server, last_ms if ended else wait_ms)
                    )
                away_since = None
            except RuntimeUnavailable:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > MAX_OUTAGE_S:
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            if not rows and ended:
                return
            for entry in records.readable(read, rows[0][1] if rows else ()):
                yield entry, ended
            after = rows[0][1][-1][0] if rows else after


async def _has_ended(server: RedisClient, record: str, job_id: str) -> bool:
    job = records.job_map(job_id, await server.hmget(record, records.JOB_FIELDS))
    if job is None:
        raise JobNotFound(job_id)
    return JobStatus(job["status"]) in TERMINAL


def _cancels() -> int:
    """The number of cancellation requests of the current task."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0
