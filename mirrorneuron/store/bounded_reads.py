"""Reads of the record of one job within a time-out: in the caller's own thread if a connection is open."""

from __future__ import annotations

import time
from collections.abc import Callable

from mirrorneuron.errors import JobNotFound
from mirrorneuron.job import TERMINAL, JobMap
from mirrorneuron.store import records
from mirrorneuron.store.call_threads import CallThreads
from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.direct_line import DirectLine, NotDirect, rest_of
from mirrorneuron.store.job_index import LIVE
from mirrorneuron.store.keys import Keys, result_channel


class BoundedReads:
    """Each method is one read, and raises redis errors, after *seconds* RedisTimeoutError."""

    def __init__(self, client: RedisClient, keys: Keys, direct: DirectLine, calls: CallThreads) -> None:
        self._client = client
        self._keys = keys
        self._direct = direct
        self._calls = calls

    def job(self, job_id: str, seconds: float) -> JobMap:
        """Return the job map. Raises JobNotFound and RecordDamaged."""
        job = records.job_map(job_id, self._row(job_id, seconds))
        if job is None:
            raise JobNotFound(job_id)
        return job

    def ended_job(self, job_id: str, seconds: float) -> JobMap | None:
        """Return the job map of an ended job, None for a live one. Raises as `job`."""
        return self._ended(job_id, self._row(job_id, seconds))

    def awaited_job(self, job_id: str, left_s: Callable[[], float], seconds: float) -> JobMap | None:
        """Wait in this thread until a job has ended, on a connection of its own, or until nothing is *left_s*.

        Reads the record again after each push, and after *left_s()*. Returns the job map of an ended job, None for a
        live one. Raises as `job`, and NotDirect at any time.
        """
        command = ("HMGET", self._keys.job(job_id), *records.JOB_FIELDS)
        row = self._direct.wait(result_channel(job_id), command, lambda row: row[1] in LIVE, left_s, seconds)
        return self._ended(job_id, row)

    def _ended(self, job_id: str, row: records.Raw) -> JobMap | None:
        job = records.job_map(job_id, row)
        if job is None:
            raise JobNotFound(job_id)
        return job if job["status"] in TERMINAL else None

    def _row(self, job_id: str, seconds: float) -> records.Raw:
        """The values of JOB_FIELDS."""
        key, began = self._keys.job(job_id), time.monotonic()
        try:
            row: records.Raw = self._direct.ask(seconds, "HMGET", key, *records.JOB_FIELDS)
            return row
        except NotDirect:
            left = rest_of(seconds, began)

        def read() -> records.Raw:
            found: records.Raw = self._client.hmget(key, records.JOB_FIELDS)
            self._direct.open_one()
            return found

        return self._calls.run(read, left)
