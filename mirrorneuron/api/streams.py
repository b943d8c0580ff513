"""Streams of a job for threads: its events, and the output of its agents. Each open stream has one connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, TypeVar

from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.job import TERMINAL, Event, JobStatus, LogChunk
from mirrorneuron.settings import Settings
from mirrorneuron.store import records
from mirrorneuron.store.connection import MAX_OUTAGE_S, RETRY_S, connect, reaching
from mirrorneuron.store.job_store import Store

EVENTS_MS: Final = 2_000  # one blocking read of a job's events; the last event ends it early
LOGS_MS: Final = 500  # one blocking read of a job's logs, which have no last entry
LAST_WORDS_MS: Final = 600  # how long a node may take to flush the last output of a killed command

T = TypeVar("T", Event, LogChunk)
_Reader: TypeAlias = Callable[[Store, str, str, int], list[T]]


def follow_events(settings: Settings, job_id: str, after: str) -> Iterator[Event]:
    """Yield the events after the event id *after*, up to the event that ends the job.

    Raises JobNotFound and RuntimeUnavailable.
    """
    for event, ended in _follow(settings, job_id, after, Store.follow, EVENTS_MS, 0):
        yield event
        if ended and records.ends_the_job(event):
            return


def follow_logs(settings: Settings, job_id: str) -> Iterator[LogChunk]:
    """The output of all agents, until the job has ended. Raises JobNotFound and RuntimeUnavailable."""
    for chunk, _ in _follow(settings, job_id, "0", Store.logs, LOGS_MS, LAST_WORDS_MS):
        yield chunk


def _follow(
    settings: Settings, job_id: str, after: str, read: _Reader[T], wait_ms: int, last_ms: int
) -> Iterator[tuple[T, bool]]:
    """The entries of a stream as they arrive, each with True if the job has ended.

    Ends when the job has ended and *last_ms* pass without an entry. An unreachable store is retried as by the waits.
    """
    store = Store(settings, client=connect(settings.redis_url))
    away_since: float | None = None
    try:
        while True:
            try:
                with reaching(settings.redis_url, job_id):
                    ended = JobStatus(store.known_job(job_id)["status"]) in TERMINAL
                    found = read(store, job_id, after, last_ms if ended else wait_ms)
                away_since = None
            except RuntimeUnavailable:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > MAX_OUTAGE_S:
                    raise
                time.sleep(RETRY_S)
                continue
            for entry in found:
                yield entry, ended
                after = entry["id"]
            if ended and not found:
                return
    finally:
        store.close()
