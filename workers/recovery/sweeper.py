"""Mends what crashes leave behind: claims of dead workers, lost announcements, jobs whose time is over.

Every worker can do it and one does, under a lease. A sweep is one script for each live job, so its cost grows with live
jobs and not with all that are kept.
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
from mirrorneuron.store.connection import AWAY
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef, ReplyCode, SweepReply
from workers.lifecycle.fork_guard import FORKS
from workers.recovery.queue_depth import Backlog
from workers.recovery.settle import failed, settle

INTERVAL_S: Final = 1.0  # between two sweeps; a quarter of a claim's lease, if that is less
LEASE_MS: Final = 4_000  # of the sweeper; two thirds of a claim's lease, if that is less
SHORTEST_LEASE_MS: Final = 1_000
SHORTEST_ABSENCE_S: Final = 2.0  # of the store; what is less is the delay of a busy machine
GAP_MS: Final = 4_000  # between the last sweep of a fleet and the first of a new worker, at least, is no mere delay
FIRST_WAIT_MS: Final = 5_000  # before what was announced and not picked up is announced again
LONGEST_WAIT_MS: Final = 300_000
RENEWED_S: Final = 3_600  # between two renewals of live jobs' bundles, which outlive retention by a day
JOBS_A_LEASE: Final = 500  # jobs that are swept before the lease is renewed
ORPHAN_MS: Final = 60_000  # an index entry without a job is that of a submission that died, once it is this old

log = logging.getLogger(__name__)


class Sweeper:
    """Sweeps the jobs of *store* while it holds the lease. *plan_of* gives the plan of a digest, or BundleNotFound."""

    def __init__(self, store: Store, app: Celery, plan_of: Callable[[str], Plan]) -> None:
        self._store = store
        self._app = app
        self._plan_of = plan_of
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._renew_at = 0.0
        self._backlog = Backlog(app)
        self._room: dict[str, int] = {}  #: pool -> tasks that this sweep may still add to its queue
        lease_ms = store.settings.claim_lease_ms
        self._interval_s = min(INTERVAL_S, lease_ms / 4_000)
        self._lease_ms = max(SHORTEST_LEASE_MS, min(LEASE_MS, lease_ms * 2 // 3))
        self._absence_s = max(SHORTEST_ABSENCE_S, self._interval_s + lease_ms / 3_000)
        self._was_away = False  #: the store, since it answered last
        self._answered_at: float | None = None  #: monotonic

    def run(self) -> None:
        """Sweep until `stop`, through every failure."""
        while not self._stop.wait(self._interval_s):
            try:
                self.tick()
            except AWAY as error:
                self._was_away = True
                log.warning("no sweep: the job store does not answer: %s", error)
            except Exception:
                log.exception("the sweep failed")
        if self._store.client.get(self._store.keys.sweeper) == self._token.encode():
            self._store.client.delete(self._store.keys.sweeper)

    def stop(self) -> None:
        self._stop.set()

    @FORKS.held_off()
    def tick(self) -> bool:
        """Sweep once, if the lease is ours; says whether it was."""
        begun = time.monotonic()
        if not self._store.lead(self._token, self._lease_ms):
            self._was_away, self._answered_at = False, time.monotonic()
            return False
        # Every claim is judged as of this moment: what holds up the sweep after it ends the lease of nobody.
        now_ms, since_last_ms = self._store.mark_sweep()
        after_gap = self._after_gap(since_last_ms, begun)
        live = self._store.index.live()
        self._room = {}
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + RENEWED_S
            self._store.bundles.renew(self._store.index.digests(live))
        for number, job_id in enumerate(live, start=1):
            if number % JOBS_A_LEASE == 0 and not self._store.lead(self._token, self._lease_ms):
                break  # it took so long that another has begun a sweep of its own
            FORKS.give_way()
            try:
                self._job(job_id, now_ms, after_gap, len(live))
            except AWAY:
                raise
            except Exception:  # one job that cannot be mended must not keep the others from it
                log.exception("job %s could not be swept", job_id)
        self._store.index.forget_expired()
        self._answered_at = time.monotonic()
        return True

    def _after_gap(self, since_last_ms: int, begun: float) -> bool:
        """Was the store away? Nobody could renew then, and its absence must not count as the death of workers.

        The last renewals may be older than the absence, so that one much shorter than a lease counts as well. That the
        worker which swept has died is no absence. One that has only just started goes by the last sweep of the others,
        too: there may have been none.
        """
        now, before = time.monotonic(), self._answered_at
        found = self._was_away or now - (before or begun) > self._absence_s
        if before is None:
            found = found or since_last_ms > max(self._store.settings.claim_lease_ms, GAP_MS)
        self._was_away, self._answered_at = False, now
        return found

    def _job(self, job_id: str, now_ms: int, after_gap: bool, live: int) -> None:
        swept = self._store.scripts.sweep(
            job_id, now_ms=now_ms, after_gap=after_gap, first_wait_ms=FIRST_WAIT_MS, longest_wait_ms=LONGEST_WAIT_MS
        )
        match swept.word:
            case ReplyCode.ENDED:
                self._store.index.mark_ended([job_id])
            case ReplyCode.MISSING:
                self._store.index.forget_orphan(job_id, ORPHAN_MS)
            case ReplyCode.POISONED:
                error = f"its worker died {swept.losses} times while it ran this message"
                self._fail(swept, error, swept.agent_id, self._at_head(job_id, swept.agent_id))
            case ReplyCode.LATE:
                self._fail(swept, "the job is older than its job_timeout_ms")
            case ReplyCode.OVERDUE:
                self._fail(swept, "the job was idle for longer than its idle_timeout_ms")
            case _:
                self._announce(swept, live)

    def _announce(self, swept: SweepReply, live: int) -> None:
        if swept.job is None or (swept.word is ReplyCode.RUNNING and not swept.waiting):
            return
        try:
            plan = self._plan_of(swept.job.digest)
        except BundleNotFound as error:
            self._fail(swept, f"{error}: it was deleted, or the server lost it")
            return
        chains = Chains(self._app, self._store.settings.redis_namespace, plan)
        if swept.word is ReplyCode.OPEN and self._has_room(LIGHT, live):
            log.info("job %s was never opened: announced again", swept.job.job_id)
            chains.publish(chains.opening(swept.job), swept.job)
        elif swept.word is ReplyCode.IDLE:
            for row in settle(self._store, swept.job, plan, swept.revision):
                chains.announce(swept.job, row)
        for row in swept.waiting:
            if swept.word is not ReplyCode.AGAIN or self._has_room(row.pool, live):
                log.info("job %s: %s ready in pool %s: announced again", swept.job.job_id, row.due, row.pool)
                chains.announce(swept.job, row)

    def _has_room(self, pool: str, live: int) -> bool:
        """May one more task go into the queue of *pool*, for a job that has one there unless it was lost?

        A queue with a task for each of the *live* jobs is long, and has lost nothing: no backlog breeds a second one.
        """
        if pool not in self._room:
            try:
                self._room[pool] = live - self._backlog.of(queue(self._store.settings.redis_namespace, pool))
            except Exception as error:  # whatever the broker's client raises
                log.debug("the queue of %s cannot be looked at: %s", pool, error)
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

    def _at_head(self, job_id: str, agent: str) -> str | None:
        """The id of the message that an agent is at; None where it cannot be read."""
        raw = self._store.client.lindex(self._store.keys.mail(job_id, agent), 0)
        with suppress(ValueError):
            return Message.parse(raw or b"").id
        return None

    def _agents(self, job: JobRef) -> list[str]:
        try:
            return list(self._plan_of(job.digest).nodes)
        except BundleNotFound:
            return self._store.found_agents(job.job_id)
