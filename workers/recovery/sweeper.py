"""Sweeper: free the claims of dead workers, re-announce lost announcements, fail jobs that have timed out.

Every worker has a sweeper, and the one that holds the sweeper's lease sweeps. A sweep runs one script for each live
job, so its cost depends on the number of live jobs and not on the number of jobs kept.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from celery import Celery

from mirrorneuron.bundle.plan import Plan
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.errors import BundleNotFound
from mirrorneuron.message import Message
from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.store.connection import UNREACHABLE
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef, ReplyCode, SweepReply
from workers.lifecycle.fork_guard import FORKS
from workers.recovery.queue_depth import QueueDepth
from workers.recovery.settle import failed, settle

INTERVAL_S: Final = 1.0  # between two sweeps, or a quarter of a claim's lease if that is less
LEASE_MS: Final = 4_000  # of the sweeper, or two thirds of a claim's lease if that is less
MIN_LEASE_MS: Final = 1_000
MIN_OUTAGE_S: Final = 2.0  # between two answers of the store; a shorter time may be the delay of a busy machine
MIN_GAP_MS: Final = 4_000  # between the last sweep by any worker and the first by a new one; more counts as an outage
FIRST_WAIT_MS: Final = 5_000  # before an announcement that no worker has picked up is repeated; doubles each time
LONGEST_WAIT_MS: Final = 300_000
RENEWED_S: Final = 3_600  # between two renewals of live jobs' bundles, which outlive retention by a day
JOBS_A_LEASE: Final = 500  # jobs that are swept before the sweeper's lease is renewed
ORPHAN_MS: Final = 60_000  # age at which an index entry without a job is taken for that of a failed submission

log = logging.getLogger(__name__)


class Sweeper:
    """Sweeps the live jobs of *store* while it holds the sweeper's lease.

    *plan_of* returns the plan of a bundle digest, or raises BundleNotFound.
    """

    def __init__(self, store: Store, app: Celery, plan_of: Callable[[str], Plan]) -> None:
        self._store = store
        self._app = app
        self._plan_of = plan_of
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._renew_at = 0.0
        self._depth = QueueDepth(app)
        self._room: dict[str, int] = {}  #: pool -> tasks that this sweep may still add to its queue
        lease_ms = store.settings.claim_lease_ms
        self._interval_s = min(INTERVAL_S, lease_ms / 4_000)
        self._lease_ms = max(MIN_LEASE_MS, min(LEASE_MS, lease_ms * 2 // 3))
        self._outage_s = max(MIN_OUTAGE_S, self._interval_s + lease_ms / 3_000)  #: a longer silence is an outage
        self._store_failed = False  #: since its last answer
        self._answered_at: float | None = None  #: when the store answered last (monotonic)

    def run(self) -> None:
        """Sweep until `stop` is called. A failed sweep is logged, and the next one tries again."""
        while not self._stop.wait(self._interval_s):
            try:
                self.tick()
            except UNREACHABLE as error:
                self._store_failed = True
                log.warning("sweep failed: the job store is unavailable: %s", error)
            except Exception:
                log.exception("sweep failed")
        self._store.sweep_lease.release(self._token)

    def stop(self) -> None:
        self._stop.set()

    @FORKS.held_off()
    def tick(self) -> bool:
        """Sweep once if this worker holds the sweeper's lease. Returns True if it does."""
        begun = time.monotonic()
        if not self._store.sweep_lease.take(self._token, self._lease_ms):
            self._store_failed, self._answered_at = False, time.monotonic()
            return False
        # All leases are compared with this one time, so that a slow sweep does not expire claims.
        now_ms, since_last_ms = self._store.sweep_lease.mark_sweep()
        after_gap = self._after_gap(since_last_ms, begun)
        live = self._store.index.live()
        self._room = {}
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + RENEWED_S
            self._store.bundles.renew(self._store.index.digests(live))
        for number, job_id in enumerate(live, start=1):
            if number % JOBS_A_LEASE == 0 and not self._store.sweep_lease.take(self._token, self._lease_ms):
                break  # the sweep took so long that another worker has taken the lease
            FORKS.give_way()
            try:
                self._sweep_job(job_id, now_ms, after_gap, len(live))
            except UNREACHABLE:
                raise
            except Exception:  # one damaged job must not stop the sweep of the others
                log.exception("job %s: sweep failed", job_id)
        self._store.index.forget_expired()
        self._answered_at = time.monotonic()
        return True

    def _after_gap(self, since_last_ms: int, begun: float) -> bool:
        """True if the store was unavailable since its last answer.

        No claim can be renewed during an outage, so expired leases do not mean dead workers after it, and every claim
        gets a fresh lease. The last renewals may be older than the outage; therefore an outage much shorter than a
        lease counts as well. The death of the worker that swept before is not an outage. A sweeper that has just
        started also compares the time of the last sweep by any worker, because the whole fleet may have been down.
        """
        now, before = time.monotonic(), self._answered_at
        gap = self._store_failed or now - (before or begun) > self._outage_s
        if before is None:
            gap = gap or since_last_ms > max(self._store.settings.claim_lease_ms, MIN_GAP_MS)
        self._store_failed, self._answered_at = False, now
        return gap

    def _sweep_job(self, job_id: str, now_ms: int, after_gap: bool, live: int) -> None:
        swept = self._store.scripts.sweep(
            job_id, now_ms=now_ms, after_gap=after_gap, first_wait_ms=FIRST_WAIT_MS, longest_wait_ms=LONGEST_WAIT_MS
        )
        match swept.word:
            case ReplyCode.ENDED:
                self._store.index.mark_ended([job_id])
            case ReplyCode.MISSING:
                self._store.index.forget_orphan(job_id, ORPHAN_MS)
            case ReplyCode.POISONED:
                counts = f"losses: {swept.losses}, limit: policies.max_agent_restart_attempts"
                error = f"the worker died while it ran this message ({counts})"
                self._fail(swept, error, swept.agent_id, self._head_message_id(job_id, swept.agent_id))
            case ReplyCode.LATE:
                self._fail(swept, "the job timed out: it is older than policies.job_timeout_ms")
            case ReplyCode.OVERDUE:
                self._fail(swept, "the job timed out: it was idle for longer than policies.idle_timeout_ms")
            case _:
                self._announce(swept, live)

    def _announce(self, swept: SweepReply, live: int) -> None:
        if swept.job is None or (swept.word is ReplyCode.RUNNING and not swept.waiting):
            return
        try:
            plan = self._plan_of(swept.job.digest)
        except BundleNotFound as error:
            self._fail(swept, f"{error}: it was deleted or lost; submit the job again")
            return
        chains = Chains(self._app, self._store.settings.redis_namespace, plan)
        if swept.word is ReplyCode.OPEN and self._has_room(LIGHT, live):
            log.info("job %s: not opened yet: re-announced", swept.job.job_id)
            chains.publish(chains.opening(swept.job), swept.job)
        elif swept.word is ReplyCode.IDLE:
            for row in settle(self._store, swept.job, plan, swept.revision):
                chains.announce(swept.job, row)
        for row in swept.waiting:
            if swept.word is not ReplyCode.AGAIN or self._has_room(row.pool, live):
                log.info("job %s: %s agents ready in pool %s: re-announced", swept.job.job_id, row.due, row.pool)
                chains.announce(swept.job, row)

    def _has_room(self, pool: str, live: int) -> bool:
        """True if one more task may be added to the queue of *pool*, for a job whose task may have been lost.

        A queue that holds as many tasks as there are *live* jobs is long but has lost none. Without this limit each
        sweep would add duplicates to a long queue.
        """
        if pool not in self._room:
            try:
                self._room[pool] = live - self._depth.of(queue(self._store.settings.redis_namespace, pool))
            except Exception as error:  # each broker's client has its own exceptions
                log.debug("cannot read the queue length of pool %s: %s", pool, error)
                self._room[pool] = live
        self._room[pool] -= 1
        return self._room[pool] >= 0

    def _fail(self, swept: SweepReply, error: str, agent: str | None = None, message_id: str | None = None) -> None:
        if swept.job is None:
            return
        end = failed(agent, error, {"losses": swept.losses, "message_id": message_id} if agent else None)
        if self._store.scripts.finish(swept.job, end, self._agents(swept.job)) is ReplyCode.SETTLED:
            log.warning("job %s failed: %s", swept.job.job_id, error)
            self._store.index.mark_ended([swept.job.job_id])

    def _head_message_id(self, job_id: str, agent: str) -> str | None:
        """The id of the first message in the agent's mailbox; None if it cannot be parsed."""
        raw = self._store.first_message(job_id, agent)
        with suppress(ValueError):
            return Message.parse(raw or b"").id
        return None

    def _agents(self, job: JobRef) -> list[str]:
        try:
            return list(self._plan_of(job.digest).nodes)
        except BundleNotFound:
            return self._store.found_agents(job.job_id)
