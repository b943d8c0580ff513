"""The indexes of jobs: all kept jobs, the live ones with their next looks, the ended ones by status and retention.

The indexes are in other slots than the jobs, so no script of a job can change them. The entries are written before the
job is created, and the live entry is removed after the job has ended. The sweeper repairs what a crash left in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from mirrorneuron.job import TERMINAL, JobStatus
from mirrorneuron.store.connection import RedisClient, checked_replies
from mirrorneuron.store.keys import ASKED, Keys
from mirrorneuron.store.look_schedule import LookSchedule
from mirrorneuron.store.status_index import ENDS, PAGE, Row, StatusIndex, in_pages, newest_first

LIVE: Final = frozenset(status.encode() for status in JobStatus if status not in TERMINAL)

Entry = tuple[bytes | None, float | None]  #: status and time of submission (ms) of a job


class JobIndex:
    """The indexes of one namespace. *now_ms* returns the server's time, because the clocks of nodes may be wrong."""

    def __init__(self, client: RedisClient, keys: Keys, retention_seconds: int, now_ms: Callable[[], int]) -> None:
        self._client = client
        self._keys = keys
        self._retention_seconds = retention_seconds
        self._now_ms = now_ms
        self.looks = LookSchedule(client, keys)
        self.by_status = StatusIndex(client, keys)

    def entries(self, job_id: str, now_ms: int, look_ms: int | None = None) -> list[tuple[str | int, ...]]:
        """Return the commands that add a new job to the indexes. The sweeper looks at it at *look_ms*, or at once.

        They must be sent before the job is created: the sweeper removes an entry without a job, but a job without an
        entry would be lost.
        """
        look = self.looks.entry(job_id, now_ms if look_ms is None else look_ms)
        return [("ZADD", self._keys.jobs, "NX", now_ms, job_id), ("SADD", self._keys.live, job_id), look]

    def mark_ended(self, job_ids: Sequence[str]) -> None:
        """Remove ended jobs from the live index. Idempotent. After a crash before this call, the sweeper repeats it.

        A job whose record is still live is put back: a server that crashed and lost its last second of writes may have
        lost the end of the job, and this command may have been sent again by a retry.
        """
        if not job_ids:
            return
        over = self._now_ms() + 1000 * self._retention_seconds if self._retention_seconds else 0
        pipe = self._client.pipeline(transaction=False)
        before = self._statuses(pipe, job_ids)
        if over:
            pipe.zadd(self._keys.ended, dict.fromkeys(job_ids, over), nx=True)  # a repeated call keeps the first time
        self._file(pipe, before)
        pipe.srem(self._keys.live, *job_ids)
        pipe.zrem(self._keys.due, *job_ids)
        for job_id, (status, submitted) in self._statuses(pipe, job_ids).items():
            if status in LIVE:
                self.mark_live(job_id)
            elif status is None:  # deleted meanwhile
                self._forget_end(job_id)
            elif status != before[job_id][0]:  # it has ended, or been retried, meanwhile
                self._file(pipe, {job_id: (status, submitted)})
                pipe.execute()

    def _statuses(self, pipe: Any, job_ids: Sequence[str]) -> dict[str, Entry]:
        """Execute *pipe*, and read the status of each job, None without a record, and its time of submission."""
        for job_id in job_ids:
            pipe.hget(self._keys.job(job_id), "status")
        pipe.zmscore(self._keys.jobs, job_ids)
        *statuses, submitted = checked_replies(pipe.execute(raise_on_error=False))[-len(job_ids) - 1 :]
        if isinstance(submitted, Exception):
            raise submitted
        texts = (status if isinstance(status, bytes) else None for status in statuses)
        return dict(zip(job_ids, zip(texts, submitted, strict=True), strict=True))

    def _file(self, pipe: Any, entries: Mapping[str, Entry]) -> None:
        """Add to *pipe* the commands that enter those jobs that have ended by status."""
        for status in ENDS:
            found = {
                job_id: submitted
                for job_id, (text, submitted) in entries.items()
                if text == status.encode() and submitted is not None
            }
            if found:
                self.by_status.file(pipe, status, found)

    def _forget_end(self, job_id: str) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.zrem(self._keys.ended, job_id)
        self.by_status.remove(pipe, job_id)
        pipe.execute()

    def mark_live(self, job_id: str) -> None:
        """Add an ended job that is going to run again to the live index. The sweeper looks at it at once."""
        pipe = self._client.pipeline(transaction=False)
        pipe.sadd(self._keys.live, job_id)
        pipe.execute_command(*self.looks.entry(job_id, 0))
        pipe.zrem(self._keys.ended, job_id)
        self.by_status.remove(pipe, job_id)
        pipe.execute()

    def repair(self, job_ids: Sequence[str], age_ms: int) -> None:
        """Make the entries of jobs what their records say, whatever a crash or a race of two writers has left.

        The entries of a job without a record are removed if they are older than *age_ms*.
        """
        pipe = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hget(self._keys.job(job_id), "status")
            pipe.pttl(self._keys.job(job_id))
            pipe.sismember(self._keys.live, job_id)
            pipe.zscore(self._keys.due, job_id)
            pipe.zscore(self._keys.ended, job_id)
        rows = checked_replies(pipe.execute(raise_on_error=False))
        columns = (rows[at::5] for at in range(5))
        ended: list[str] = []
        for job_id, status, left_ms, live, due, over in zip(job_ids, *columns, strict=True):
            if status is None:
                self.forget_orphan(job_id, age_ms)
            elif isinstance(status, Exception):
                continue  # the key has another type: it was not written by this package
            elif status in LIVE:
                if not live or due is None or over is not None:
                    self.mark_live(job_id)
            elif live or due is not None:
                self.mark_ended([job_id])
            else:
                if over is None and left_ms > 0:
                    self._client.zadd(self._keys.ended, {job_id: self._now_ms() + left_ms}, nx=True)
                ended.append(job_id)
        if ended:
            pipe = self._client.pipeline(transaction=False)
            self._file(pipe, self._statuses(pipe, ended))
            pipe.execute()

    def range(self, start: int, count: int) -> list[str]:
        """Return the ids of *count* kept jobs from position *start* on, oldest first."""
        return _texts(self._client.zrange(self._keys.jobs, start, start + count - 1))

    def remove(self, *job_ids: str) -> None:
        """Remove the entries of deleted jobs.

        If a job exists, it was submitted again, and its entries are added again. If it has also ended, the sweeper
        removes it from the live index.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.zrem(self._keys.jobs, *job_ids)
        pipe.zrem(self._keys.ended, *job_ids)
        self.by_status.remove(pipe, *job_ids)
        pipe.srem(self._keys.live, *job_ids)
        pipe.zrem(self._keys.due, *job_ids, *(ASKED + job_id for job_id in job_ids))
        for job_id in job_ids:
            pipe.exists(self._keys.job(job_id))
        found = [job_id for job_id, there in zip(job_ids, pipe.execute()[-len(job_ids) :], strict=True) if there]
        for job_id in found:
            for command in self.entries(job_id, self._now_ms()):
                self._client.execute_command(*command)

    def pages(self, *, live_only: bool = False, status: JobStatus | None = None) -> Iterator[list[str]]:
        """Yield the ids of the kept jobs, newest first. Each id comes once, whatever is created or deleted.

        With *live_only* or a *status*, the cost does not depend on how many other jobs are kept. A job may have another
        status by the time that it is read.
        """
        rows: Iterable[Row] | None = None
        if status is not None:
            rows = self.by_status.rows(status)
        elif live_only:
            rows = self.by_status.live_rows()
        return in_pages(newest_first(self._client, self._keys.jobs) if rows is None else rows)

    def live(self) -> list[str]:
        """Return the ids of the live jobs, in no order."""
        return _texts(self._client.smembers(self._keys.live))

    def count(self) -> int:
        """Return the number of kept jobs."""
        return int(self._client.zcard(self._keys.jobs))

    def count_since(self, ms: int) -> int:
        """Return the number of kept jobs that were submitted at *ms* or later."""
        return int(self._client.zcount(self._keys.jobs, ms, "+inf"))

    def live_count(self) -> int:
        """Return the number of live jobs."""
        return int(self._client.scard(self._keys.live))

    def forget_orphan(self, job_id: str, age_ms: int) -> None:
        """Remove the entries of a job without a record, if they are older than *age_ms*."""
        submitted = self._client.zscore(self._keys.jobs, job_id)
        if submitted is None or self._now_ms() - submitted > age_ms:
            self.remove(job_id)

    def unlisted(self, job_ids: Sequence[str]) -> list[str]:
        """Return those of *job_ids* that are not in the live index."""
        flags = self._client.smismember(self._keys.live, job_ids) if job_ids else []
        return [job_id for job_id, flag in zip(job_ids, flags, strict=True) if not flag]

    def odd(self, job_ids: Sequence[str]) -> list[str]:
        """Return those of *job_ids* whose entries fit neither a live nor an ended job. One round trip."""
        if not job_ids:
            return []
        pipe = self._client.pipeline(transaction=False)
        pipe.smismember(self._keys.live, job_ids)
        pipe.zmscore(self._keys.due, job_ids)
        pipe.zmscore(self._keys.ended, job_ids)
        self.by_status.entries(pipe, job_ids)
        kept = bool(self._retention_seconds)
        sound = ((True, True, False, 0), (False, False, kept, 1))
        found = []
        for job_id, live, *scores in zip(job_ids, *pipe.execute(), strict=True):
            due, over, *ends = (score is not None for score in scores)
            if (bool(live), due, over, sum(ends)) not in sound:
                found.append(job_id)
        return found

    def live_since(self, ms: int) -> list[str]:
        """Return the live jobs that were submitted at *ms* or later."""
        names = _texts(self._client.zrangebyscore(self._keys.jobs, ms, "+inf"))
        missing = set(self.unlisted(names))
        return [name for name in names if name not in missing]

    def forget_expired(self, now_ms: int | None = None) -> None:
        """Remove the entries of jobs whose retention is over (at *now_ms*) and whose keys have expired, in pages.

        A job that has a record nevertheless was submitted again under the same id: only its old end is removed.
        """
        at = self._now_ms() if now_ms is None else now_ms
        while names := _texts(self._client.zrangebyscore(self._keys.ended, "-inf", at, start=0, num=PAGE)):
            pipe = self._client.pipeline(transaction=False)
            for name in names:
                pipe.exists(self._keys.job(name))
            gone = [name for name, there in zip(names, pipe.execute(), strict=True) if not there]
            self._client.zrem(self._keys.ended, *names)
            if gone:
                self.remove(*gone)

    def digests(self, job_ids: Sequence[str]) -> set[str]:
        """Return the bundle digests of these jobs. Skips jobs without a readable record."""
        found: set[bytes] = set()
        for at in range(0, len(job_ids), PAGE):
            pipe = self._client.pipeline(transaction=False)
            for job_id in job_ids[at : at + PAGE]:
                pipe.hget(self._keys.job(job_id), "digest")
            rows = checked_replies(pipe.execute(raise_on_error=False))
            found.update(row for row in rows if row and isinstance(row, bytes))
        return set(_texts(found))


def _texts(names: Sequence[bytes] | set[bytes]) -> list[str]:
    return [name.decode("utf-8", "replace") for name in names]
