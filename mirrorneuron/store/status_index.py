"""The index of ended jobs by status: a ZSET for each terminal status, by submission time.

The status of a live job changes inside its scripts, which cannot write to other slots. So live jobs, which are few
beside the kept ones, are asked for theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from typing import Any, Final

from mirrorneuron.job import TERMINAL, JobStatus
from mirrorneuron.store.connection import RedisClient, checked_replies
from mirrorneuron.store.keys import Keys

PAGE: Final = 200  # rows in one round trip
ENDS: Final = tuple(sorted(TERMINAL))
READ: Final = 1_000  # records in one round trip, of which only the status is read

Row = tuple[float, bytes]  #: submission time (ms), job id


class StatusIndex:
    """The jobs of one namespace by status."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def file(self, pipe: Any, status: JobStatus, submitted: dict[str, float]) -> None:
        """Add to *pipe* the commands that enter jobs, which ended with *status*, by their times of submission."""
        pipe.zadd(self._keys.of_status(status), submitted)
        for other in ENDS:
            if other is not status:
                pipe.zrem(self._keys.of_status(other), *submitted)

    def remove(self, pipe: Any, *job_ids: str) -> None:
        """Add to *pipe* the commands that remove jobs."""
        for status in ENDS:
            pipe.zrem(self._keys.of_status(status), *job_ids)

    def entries(self, pipe: Any, job_ids: Sequence[str]) -> None:
        """Add to *pipe* the commands, one for each terminal status, that read whether the jobs have an entry."""
        for status in ENDS:
            pipe.zmscore(self._keys.of_status(status), job_ids)

    def counts(self) -> Counter[str] | None:
        """Return the number of kept jobs by status; None if jobs lack an entry, as those of an earlier version do."""
        complete, ended, live = self._look()
        if not complete:
            return None
        found = Counter(status.decode("utf-8", "replace") for _, status in self._statuses(live))
        return found + ended

    def rows(self, status: JobStatus) -> Iterator[Row] | None:
        """Return the jobs that have *status*, newest first, or None as `counts`. Each job comes once."""
        complete, _, live = self._look()
        if not complete:
            return None
        found = {name for name, text in self._statuses(live) if text == status.encode()}
        newest = sorted(self._submitted(list(found)), reverse=True)
        if status not in TERMINAL:
            return iter(newest)
        entries = newest_first(self._client, self._keys.of_status(status))
        return merge(newest, (row for row in entries if row[1] not in found), reverse=True)

    def live_rows(self) -> list[Row]:
        """Return the live jobs, newest first."""
        return sorted(self._submitted(list(self._client.smembers(self._keys.live))), reverse=True)

    def _look(self) -> tuple[bool, Counter[str], list[bytes]]:
        """Return if each job has an entry, the number of entries by terminal status, and the live jobs."""
        pipe = self._client.pipeline(transaction=False)
        for status in ENDS:
            pipe.zcard(self._keys.of_status(status))
        pipe.zcard(self._keys.jobs)
        pipe.smembers(self._keys.live)
        *entered, kept, live = pipe.execute()
        ended = Counter({str(status): number for status, number in zip(ENDS, entered, strict=True)})
        return int(kept) <= ended.total() + len(live), ended, list(live)

    def _statuses(self, names: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Return (job id, status) of the jobs that have a record."""
        found: list[tuple[bytes, bytes]] = []
        for at in range(0, len(names), READ):
            some = names[at : at + READ]
            pipe = self._client.pipeline(transaction=False)
            for name in some:
                pipe.hget(self._keys.job(name.decode("utf-8", "replace")), "status")
            rows = checked_replies(pipe.execute(raise_on_error=False))
            found += ((name, row) for name, row in zip(some, rows, strict=True) if isinstance(row, bytes))
        return found

    def _submitted(self, names: Sequence[bytes]) -> Iterator[Row]:
        for at in range(0, len(names), READ):
            some = names[at : at + READ]
            scores = self._client.zmscore(self._keys.jobs, some)
            yield from ((score, name) for name, score in zip(some, scores, strict=True) if score is not None)


def newest_first(client: RedisClient, key: str) -> Iterator[Row]:
    """Yield the entries of a ZSET, the highest score first, in pages. Each comes once, whatever is added or removed."""
    bound: float | str = "+inf"
    seen: set[bytes] = set()  # names with the score *bound*
    while True:
        rows = client.zrevrangebyscore(key, bound, "-inf", start=0, num=PAGE + len(seen), withscores=True)
        fresh = [(score, name) for name, score in rows if name not in seen]
        if not fresh:
            return
        bound = rows[-1][1]
        seen = {name for name, score in rows if score == bound}
        yield from fresh


def in_pages(rows: Iterable[Row]) -> Iterator[list[str]]:
    """Yield the job ids of *rows* in pages."""
    page: list[str] = []
    for _, name in rows:
        page.append(name.decode("utf-8", "replace"))
        if len(page) >= PAGE:
            yield page
            page = []
    if page:
        yield page
