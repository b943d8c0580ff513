"""Renews the claims that a worker process holds while their runs go on, and ends runs whose claim is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mirrorneuron.store.connection import AWAY
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef, ReplyCode
from workers.lifecycle.run_handle import RunHandle
from workers.lifecycle.shutdown import REASON, STOP, Stop
from workers.lifecycle.threads import started

AWAY_S = 0.5  # between two tries to reach a store that is away

log = logging.getLogger(__name__)

REASONS = {
    ReplyCode.STALE: "the claim was lost",
    ReplyCode.ENDED: "the job has ended",
    ReplyCode.MISSING: "the job is gone",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """One token's claims, and what to end when they are lost."""

    job: JobRef
    token: str
    agents: tuple[str, ...]
    handle: RunHandle | None


class Keeper:
    """One thread for all claims of a process; it starts with the first claim and renews every *interval_s*.

    User code never runs in this process, so nothing can keep the thread from its work. While it holds runs that can be
    ended, it listens for the ends of jobs too, so that a cancelled job's commands die at once, and another thread
    waits for the end of the worker, to have them given back.
    """

    def __init__(self, store: Store, interval_s: float, stop: Stop = STOP) -> None:
        self._store = store
        self._stop = stop
        self._scripts = store.scripts
        self._interval_s = interval_s
        self._holdings: dict[str, Holding] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._killable = False  #: it has held a run that can be ended
        self._woken = threading.Event()

    @contextmanager
    def holding(
        self, job: JobRef, token: str, agents: Sequence[str], handle: RunHandle | None = None
    ) -> Iterator[None]:
        """Keep these claims alive within the block."""
        try:
            with self._lock:
                self._holdings[token] = Holding(job, token, tuple(agents), handle)
                self._start(killable=handle is not None)
            if handle is not None and self._stop.over.is_set():  # the thread has looked already
                handle.give_back(REASON)
            yield
        finally:
            with self._lock:
                self._holdings.pop(token, None)

    def _start(self, *, killable: bool) -> None:
        """Start the threads that do not run yet. Raises RuntimeError where there is no room for one; the next holding
        tries again.
        """
        if killable and not self._killable:
            started("giving back", self._give_back)
            self._killable = True
            self._woken.set()
        if self._thread is None:
            self._thread = started("keeper", self._run)

    def _give_back(self) -> None:
        self._stop.over.wait()
        with self._lock:
            handles = [holding.handle for holding in self._holdings.values() if holding.handle is not None]
        for handle in handles:
            handle.give_back(REASON)

    def _run(self) -> None:
        with self._store.client.pubsub(ignore_subscribe_messages=True) as ends:
            due = time.monotonic() + self._interval_s
            while True:
                try:
                    if self._killable and not ends.subscribed:
                        ends.subscribe(self._store.keys.ends)
                    left = max(0.0, due - time.monotonic())
                    news = ends.get_message(timeout=left) if ends.subscribed else self._woken.wait(left)
                except AWAY as error:
                    log.warning("the job store does not answer: %s", error)
                    news = None
                    time.sleep(min(self._interval_s, AWAY_S))
                except Exception:  # this thread is never started again: without it every claim would be lost
                    log.exception("the ends of jobs cannot be listened to")
                    news = None
                    ends.reset()
                    time.sleep(min(self._interval_s, AWAY_S))
                self._woken.clear()
                if news or time.monotonic() >= due:
                    self.tick()
                    due = time.monotonic() + self._interval_s

    def tick(self) -> None:
        """Renew everything once."""
        with self._lock:
            holdings = list(self._holdings.values())
        for holding in holdings:
            try:
                word = self._scripts.renew(holding.job, holding.token, holding.agents)
            except AWAY as error:  # the claim stays ours until it is refused: try again next time
                log.warning("job %s: the claim could not be renewed: %s", holding.job.job_id, error)
                continue
            except Exception:
                log.exception("job %s: the claim could not be renewed", holding.job.job_id)
                continue
            if word is not ReplyCode.RENEWED and holding.handle is not None:
                # Given back, not failed: a server that lost its last second may know of no end any more.
                holding.handle.give_back(REASONS.get(word, str(word)))
