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
from mirrorneuron.pools import queue
from mirrorneuron.store.connection import UNREACHABLE
from mirrorneuron.store.job_index import PAGE
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef, ReplyCode, SweepReply
from workers.lifecycle.fork_guard import FORKS
from workers.recovery.outages import Outages
from workers.recovery.queue_depth import QueueDepth
from workers.recovery.reminders import Key, Ready, Reminders
from workers.recovery.settle import failed, settle

INTERVAL_S: Final = 1.0  # between two sweeps, or a quarter of a claim's lease if that is less
LEASE_MS: Final = 4_000  # of the sweeper, or two thirds of a claim's lease if that is less
MIN_LEASE_MS: Final = 1_000
MIN_OUTAGE_S: Final = 2.0  # between two answers of the store; a shorter time may be the delay of a busy machine
MIN_GAP_S: Final = 4.0  # between the last sweep by any worker and the first by a new one; more counts as an outage
RENEWED_S: Final = 3_600  # between two renewals of live jobs' bundles, which outlive retention by a day
JOBS_A_LEASE: Final = 500  # jobs that are swept before the sweeper's lease is renewed
REPAIR_S: Final = 10  # between two repairs of some entries of the index of jobs
REPAIRED: Final = 1_000  # entries in one repair
OPENING: Final = ""  # in place of a pool: the job waits to be opened
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
        self._renew_at = self._repair_at = 0.0
        self._repaired = 0  #: position in the index of jobs
        self._depth = QueueDepth(app)
        self._room: dict[str, int] = {}  #: pool -> tasks that this sweep may still add to its queue
        self._seen: set[Key] = set()  #: jobs and pools with agents that this sweep found waiting
        lease_ms = store.settings.claim_lease_ms
        self._interval_s = min(INTERVAL_S, lease_ms / 4_000)
        self._lease_ms = max(MIN_LEASE_MS, min(LEASE_MS, lease_ms * 2 // 3))
        silence_s = max(MIN_OUTAGE_S, self._interval_s + lease_ms / 3_000)
        self._outages = Outages(silence_s, max(lease_ms / 1_000, MIN_GAP_S))
        self._reminders = Reminders()

    def run(self) -> None:
        """Sweep until `stop` is called. A failed sweep is logged, and the next one tries again."""
        while not self._stop.wait(self._interval_s):
            try:
                self.tick()
            except UNREACHABLE as error:
                self._outages.failed = True
                log.warning("sweep failed: the job store is unavailable: %s", error)
            except Exception:
                log.exception("sweep failed")
        self._store.sweep_lease.release(self._token)

    def stop(self) -> None:
        self._stop.set()

    @FORKS.held_off()
    def tick(self) -> bool:
        """Sweep once if this worker holds the sweeper's lease. Returns True if it does."""
        self._outages.tick_begins(time.monotonic())
        turn = self._store.sweep_lease.take(self._token, self._lease_ms)
        after_gap = self._outages.reading(turn.now_ms, turn.swept_ms, time.monotonic())
        if turn.held:
            self._sweep(turn.now_ms, after_gap)
        self._outages.answered(time.monotonic())
        return turn.held

    def _sweep(self, now_ms: int, after_gap: bool) -> None:
        """Sweep all live jobs. All leases are compared with *now_ms*, so that a slow sweep does not expire claims."""
        live = self._store.index.live()
        self._outages.answered(time.monotonic())
        self._room, self._seen = {}, set()
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + RENEWED_S
            self._store.bundles.renew(self._store.index.digests(live))
        for number, job_id in enumerate(live, start=1):
            if number % JOBS_A_LEASE == 0 and not self._store.sweep_lease.take(self._token, self._lease_ms).held:
                return  # the sweep took so long that another worker has taken the lease
            FORKS.give_way()
            try:
                self._sweep_job(job_id, now_ms, after_gap, len(live))
            except UNREACHABLE:
                raise
            except Exception:  # one damaged job must not stop the sweep of the others
                log.exception("job %s: sweep failed", job_id)
            self._outages.answered(time.monotonic())
        self._store.index.forget_expired()
        self._repair_index()
        self._reminders.sweep_ended(self._seen)
        self._outages.set_back = False

    def _repair_index(self) -> None:
        """Compare the next entries of the index of jobs with their records. After the last one, begin again."""
        if time.monotonic() < self._repair_at:
            return
        self._repair_at = time.monotonic() + REPAIR_S
        for _ in range(REPAIRED // PAGE):
            page = self._store.index.range(self._repaired, PAGE)
            self._store.index.repair(page, ORPHAN_MS)
            self._outages.answered(time.monotonic())
            self._repaired = self._repaired + len(page) if len(page) == PAGE else 0
            if not self._repaired:
                return

    def _sweep_job(self, job_id: str, now_ms: int, after_gap: bool, live: int) -> None:
        swept = self._store.scripts.sweep(job_id, now_ms=now_ms, after_gap=after_gap, set_back=self._outages.set_back)
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
                self._announce(swept, now_ms, live)

    def _announce(self, swept: SweepReply, now_ms: int, live: int) -> None:
        """Settle an idle job. Announce the agents that this sweep made ready, and those that wait for too long."""
        if swept.job is None:
            return
        job_id = swept.job.job_id
        opens = swept.word is ReplyCode.OPEN and self._is_due(job_id, OPENING, ("", swept.since_ms), now_ms)
        rows = [
            row
            for row in swept.waiting
            if row.new
            or (self._is_due(job_id, row.pool, (row.oldest, row.ready_ms), now_ms) and self._has_room(row.pool, live))
        ]
        if not (opens or rows or swept.word is ReplyCode.IDLE):
            return
        try:
            plan = self._plan_of(swept.job.digest)
        except BundleNotFound as error:
            self._fail(swept, f"{error}: it was deleted or lost; submit the job again")
            return
        chains = Chains(self._app, self._store.settings.redis_namespace, plan)
        if swept.word is ReplyCode.IDLE:
            mark_ended = self._store.index.mark_ended
            for flushed in settle(self._store, swept.job, plan, swept.revision, lambda job_id: mark_ended([job_id])):
                chains.announce(swept.job, flushed)
        if opens and self._has_room(plan.opening_pool, live):
            log.info("job %s: not opened yet: announced again", job_id)
            chains.publish(chains.opening(swept.job), swept.job)
            self._reminders.announced((job_id, OPENING), time.monotonic())
        for row in rows:
            log.info("job %s: %s agents ready in pool %s: announced again", job_id, row.due, row.pool)
            chains.announce(swept.job, row)
            if (job_id, row.pool) in self._seen:
                self._reminders.announced((job_id, row.pool), time.monotonic())

    def _is_due(self, job_id: str, pool: str, oldest: Ready, now_ms: int) -> bool:
        """True if the ready agents of *pool* have waited for so long that their announcement may be lost."""
        key = (job_id, pool)
        self._seen.add(key)
        waited_s = (now_ms - oldest[1]) / 1_000
        return self._reminders.is_due(key, oldest, waited_s, time.monotonic())

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
