"""Lease keeper: renew the claims of a worker process while their runs continue, and end runs whose claim is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mirrorneuron.limits import wait_until_s
from mirrorneuron.store.connection import UNREACHABLE
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef, ReplyCode
from workers.lifecycle.run_handle import RunHandle
from workers.lifecycle.shutdown import REASON, STOP, Stop
from workers.lifecycle.threads import started

RETRY_S = 0.5  # between two attempts to reach an unavailable store

log = logging.getLogger(__name__)

REASONS = {
    ReplyCode.STALE: "the claim was lost",
    ReplyCode.ENDED: "the job has ended",
    ReplyCode.MISSING: "the job was deleted",
}


@dataclass(slots=True)
class Holding:
    """The claims of one token, and the handle that ends their run if they are lost; None for light agents."""

    job: JobRef
    token: str
    agents: tuple[str, ...]  #: may become fewer while one of them runs
    handle: RunHandle | None


class LeaseKeeper:
    """Renews all claims of a process every *interval_s*, in one thread that starts with the first claim.

    User code runs in other processes, so it cannot block the thread. From the first run with a handle on, the thread
    also subscribes to the ends of jobs, so that the commands of a cancelled job are ended at once. A second thread
    waits for the worker's shutdown and then gives back the runs that still continue.
    """

    def __init__(self, store: Store, interval_s: float, stop: Stop = STOP) -> None:
        self._store = store
        self._stop = stop
        # A command that waits on a dead connection must not outlast a lease, so renewals have connections of their own.
        self._scripts = store.impatient(interval_s).scripts
        self._interval_s = interval_s
        self._holdings: dict[str, Holding] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_handles = False  #: a run with a handle has been held
        self._woken = threading.Event()

    @contextmanager
    def holding(
        self, job: JobRef, token: str, agents: Sequence[str], handle: RunHandle | None = None
    ) -> Iterator[Holding]:
        """Renew these claims within the block. If they are lost or the worker stops, *handle* ends the run."""
        holding = Holding(job, token, tuple(agents), handle)
        try:
            with self._lock:
                self._holdings[token] = holding
                self._start(with_handle=handle is not None)
            if handle is not None and self._stop.over.is_set():  # `_give_back` may have run before this claim was held
                handle.give_back(REASON)
            yield holding
        finally:
            with self._lock:
                self._holdings.pop(token, None)

    def _start(self, *, with_handle: bool) -> None:
        """Start the threads that do not run yet.

        Raises RuntimeError if the OS refuses a thread; the next call of `holding` tries again.
        """
        if with_handle and not self._has_handles:
            started("giving back", self._give_back)
            self._has_handles = True
            self._woken.set()
        if self._thread is None:
            self._thread = started("lease keeper", self._run)

    def _give_back(self) -> None:
        """Wait for the end of the worker's grace period, and give back the runs that still continue."""
        self._stop.over.wait()
        with self._lock:
            handles = [holding.handle for holding in self._holdings.values() if holding.handle is not None]
        for handle in handles:
            handle.give_back(REASON)

    def _run(self) -> None:
        """Renew the claims at every interval, and at once when a job ends, to end its runs. Never returns."""
        with self._store.job_ends() as ends:
            due = time.monotonic() + self._interval_s
            while True:
                try:
                    if self._has_handles and not ends.subscribed:
                        ends.subscribe()
                    left = wait_until_s(due)
                    woken = ends.wait(left) if ends.subscribed else self._woken.wait(left)
                except UNREACHABLE as error:
                    log.warning("the job store is unavailable: %s", error)
                    woken = False
                    time.sleep(min(self._interval_s, RETRY_S))
                except Exception:  # the thread must survive: it is not restarted, and without it every claim expires
                    log.exception("cannot listen for ended jobs")
                    woken = False
                    ends.reset()
                    time.sleep(min(self._interval_s, RETRY_S))
                self._woken.clear()
                if woken or time.monotonic() >= due:
                    renewed = self.tick()
                    due = time.monotonic() + (self._interval_s if renewed else min(self._interval_s, RETRY_S))

    def tick(self) -> bool:
        """Renew all claims once. End the runs whose claim the store refuses to renew.

        Returns False if the store did not answer: the rest of the claims is left for the next tick, which comes soon
        and on a new connection.
        """
        with self._lock:
            holdings = list(self._holdings.values())
        for holding in holdings:
            agents = holding.agents
            try:
                word = self._scripts.renew(holding.job, holding.token, agents)
            except UNREACHABLE as error:  # the claim is valid until the store refuses it; the next tick tries again
                log.warning("job %s: cannot renew the claim: %s", holding.job.job_id, error)
                return False
            except Exception:
                log.exception("job %s: cannot renew the claim", holding.job.job_id)
                continue
            if agents is not holding.agents:  # some were released meanwhile; the next tick renews the rest
                continue
            if word is not ReplyCode.RENEWED and holding.handle is not None:
                # Give the run back instead of failing it: a server that lost its last second of writes in a crash may
                # have lost the end of the job as well.
                holding.handle.give_back(REASONS.get(word, str(word)))
        return True
