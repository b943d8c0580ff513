"""Sweeper: free the claims of dead workers, re-announce lost announcements, fail jobs that have timed out.

Every worker has a sweeper, and the one that holds the sweeper's lease sweeps. A sweep runs one script for each job that
is due (`store.look_schedule`), so its cost depends on what the jobs do, and not on how many are live or kept.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from celery import Celery

from mirrorneuron.bundle.plan import Plan
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.errors import BundleNotFound
from mirrorneuron.message import Message
from mirrorneuron.pools import queue
from mirrorneuron.store.connection import UNREACHABLE
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.look_schedule import FIRST_LOOK_MS, DueJob, claim_bound_ms
from mirrorneuron.store.protocol import JobRef, ReplyCode, SweepReply
from mirrorneuron.store.status_index import PAGE
from workers.lifecycle.fork_guard import FORKS
from workers.recovery.next_look import next_look_ms
from workers.recovery.outages import Outages
from workers.recovery.queue_depth import QueueDepth
from workers.recovery.reminders import Ready, Reminders
from workers.recovery.settle import failed, settle

INTERVAL_S: Final = 1.0  # between two sweeps, or a quarter of a claim's lease if that is less
LEASE_MS: Final = 4_000  # of the sweeper, or two thirds of a claim's lease if that is less
MIN_LEASE_MS: Final = 1_000
MIN_OUTAGE_S: Final = 2.0  # between two answers of the store; a shorter time may be the delay of a busy machine
MIN_GAP_S: Final = 4.0  # between the last sweep by any worker and the first by a new one; more counts as an outage
RENEWED_S: Final = 6 * 3_600  # between two renewals of live jobs' bundles, which outlive retention by a day
RENEWAL: Final = 0.7  # of its lease, after which the sweeper renews it although no job is due
PROBE: Final = 1.5  # intervals between two probes of a worker that does not hold the lease
READING_S: Final = 30.0  # between two of its readings of the server's clock, to which its own clock is compared
LOOKS: Final = 50  # jobs that are swept in one round trip
JOBS_A_LEASE: Final = 500  # jobs that are swept before the sweeper's lease is renewed; a multiple of LOOKS
REPAIR_S: Final = 60  # between two repairs of some entries of the index of jobs
COMPARED: Final = 1_000  # entries that one repair compares with each other, in a few commands
RECORDS: Final = 2  # entries that it compares with their records, in a few commands each
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
        self._compared = self._read = 0  #: positions in the index of jobs
        self._depth = QueueDepth(app)
        self._queued: dict[str, int] = {}  #: pool -> tasks in its queue, with those that this sweep has added
        self._due: set[str] = set()  #: jobs at which this sweep looks
        self._fresh: int | None = None  #: live jobs at which no sweep has looked yet
        self._is_first = True  #: this worker has not swept yet
        self._holds = False  #: this worker has had the sweeper's lease when it asked last
        self._take_at = 0.0  #: when it asks again, whatever the jobs need
        lease_ms = store.settings.claim_lease_ms
        self._bound_ms = claim_bound_ms(lease_ms)
        self._interval_s = min(INTERVAL_S, lease_ms / 4_000)
        self._lease_ms = max(MIN_LEASE_MS, min(LEASE_MS, lease_ms * 2 // 3))
        silence_s = max(MIN_OUTAGE_S, self._interval_s + lease_ms / 3_000)
        self._outages = Outages(silence_s, max(lease_ms / 1_000, MIN_GAP_S))
        self._reminders = Reminders()

    def run(self) -> None:
        """Sweep until `stop` is called. A failed sweep is logged, and the next one tries again."""
        while not self._stop.wait(self._interval_s if self._holds else PROBE * self._interval_s):
            try:
                if not self._may_rest():
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
    def _may_rest(self) -> bool:
        """True if no sweep is needed now. Costs fewer commands than a sweep that finds nothing."""
        self._outages.tick_begins(time.monotonic())
        if time.monotonic() >= self._take_at:
            return False
        rests = (
            self._store.index.looks.is_quiet(self._store.clock.now_ms())
            if self._holds
            else not self._store.sweep_lease.is_free()
        )
        self._outages.answered(time.monotonic())
        return rests

    @FORKS.held_off()
    def tick(self) -> bool:
        """Sweep once if this worker holds the sweeper's lease. Returns True if it does."""
        self._outages.tick_begins(time.monotonic())
        turn = self._store.sweep_lease.take(self._token, self._lease_ms)
        self._holds = turn.held
        self._take_at = time.monotonic() + (RENEWAL * self._lease_ms / 1_000 if turn.held else READING_S)
        after_gap = self._outages.reading(turn.now_ms, turn.swept_ms, time.monotonic())
        if turn.held:
            self._sweep(turn.now_ms, after_gap)
        self._outages.answered(time.monotonic())
        return turn.held

    def _sweep(self, now_ms: int, after_gap: bool) -> None:
        """Look at the jobs that are due. All leases are compared with *now_ms*, so that a slow sweep expires no claim.

        All live jobs are due if no claim could be renewed, if the server's clock has changed, and in a first sweep.
        """
        index = self._store.index
        agenda = index.looks.agenda(now_ms)
        self._outages.answered(time.monotonic())
        if self._is_first:
            index.looks.adopt(now_ms)
        everything = after_gap or self._outages.set_back or self._is_first
        due = index.looks.all_jobs() if everything else agenda.due
        self._queued, self._fresh, self._due = {}, None, {job.job_id for job in due}
        self._renew_bundles()
        for at in range(0, len(due), LOOKS):
            if at and at % JOBS_A_LEASE == 0 and not self._store.sweep_lease.take(self._token, self._lease_ms).held:
                return  # the sweep took so long that another worker has taken the lease
            FORKS.give_way()
            self._look_at(due[at : at + LOOKS], now_ms, after_gap)
            self._outages.answered(time.monotonic())
        index.looks.take_over(agenda.asked, now_ms)
        self._repair_index(now_ms)
        self._reminders.forget(before=time.monotonic() - 4 * self._bound_ms / 1_000)
        self._outages.set_back = self._is_first = False

    def _renew_bundles(self) -> None:
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + RENEWED_S
            self._store.bundles.renew(self._store.index.digests(self._store.index.live()))

    def _repair_index(self, now_ms: int) -> None:
        """Remove expired entries, and compare the next ones with each other, and a few of them with their records.

        After the last one, begin again. Live jobs without a moment of their next look are due at once.
        """
        if time.monotonic() < self._repair_at:
            return
        self._repair_at = time.monotonic() + REPAIR_S
        index = self._store.index
        index.forget_expired(now_ms)
        if index.looks.missing():
            index.looks.adopt(now_ms)
        page = index.range(self._compared, COMPARED)
        self._compared = self._compared + len(page) if len(page) == COMPARED else 0
        some = index.range(self._read, RECORDS)
        self._read = self._read + len(some) if len(some) == RECORDS else 0
        odd = index.odd(page)
        if len(odd) > len(page) // 2:  # those of an earlier version
            self._repair_at = 0.0
        suspects = list(dict.fromkeys([*odd, *some]))
        for at in range(0, len(suspects), PAGE):
            index.repair(suspects[at : at + PAGE], ORPHAN_MS)
            self._outages.answered(time.monotonic())

    def _look_at(self, jobs: Sequence[DueJob], now_ms: int, after_gap: bool) -> None:
        """Sweep these jobs in one round trip, do what they need, and set when each is due next."""
        # Also in a first sweep, because the sweeper that noticed the step may have died. It shortens only leases and
        # delays that end later than they would if they began now.
        set_back = self._outages.set_back or self._is_first
        replies = self._store.scripts.sweep_all(
            [job.job_id for job in jobs], now_ms=now_ms, after_gap=after_gap, set_back=set_back
        )
        live = [job.job_id for job, swept in zip(jobs, replies, strict=True) if _is_live(swept)]
        looks: list[tuple[DueJob, int]] = []
        for job, swept in zip(jobs, replies, strict=True):
            try:
                next_ms = self._act(job.job_id, swept, now_ms)
            except UNREACHABLE:
                raise
            except Exception:  # one damaged job must not stop the sweep of the others
                log.exception("job %s: sweep failed", job.job_id)
                next_ms = now_ms + self._bound_ms
            if next_ms is not None:
                looks.append((job, next_ms))
        self._store.index.looks.set_next(looks)
        if unlisted := self._store.index.unlisted(live):
            self._store.index.repair(unlisted, ORPHAN_MS)
        self._store.index.mark_ended(
            [job.job_id for job, swept in zip(jobs, replies, strict=True) if _word(swept) is ReplyCode.ENDED]
        )

    def _act(self, job_id: str, swept: SweepReply | Exception, now_ms: int) -> int | None:
        """Do what a job needs. Returns when it is due next (server time, ms); None: it has ended, or at once."""
        if isinstance(swept, Exception):
            raise swept
        match swept.word:
            case ReplyCode.ENDED:
                pass
            case ReplyCode.MISSING:
                self._store.index.forget_orphan(job_id, ORPHAN_MS)
                return now_ms + self._bound_ms
            case ReplyCode.POISONED:
                counts = f"losses: {swept.losses}, limit: policies.max_agent_restart_attempts"
                error = f"the worker died while it ran this message ({counts})"
                self._fail(swept, error, swept.agent_id, self._head_message_id(job_id, swept.agent_id))
            case ReplyCode.LATE:
                self._fail(swept, "the job timed out: it is older than policies.job_timeout_ms")
            case ReplyCode.OVERDUE:
                self._fail(swept, "the job timed out: it was idle for longer than policies.idle_timeout_ms")
            case ReplyCode.IDLE:
                self._settle(swept)
            case _:
                self._announce(swept, now_ms)
                reminder_s = self._reminders.next_s(job_id, time.monotonic())
                return next_look_ms(swept, now_ms, self._store.settings.claim_lease_ms, reminder_s)
        return None

    def _settle(self, swept: SweepReply) -> None:
        """Settle an idle job, and announce the agents that this made ready."""
        if swept.job is None or (plan := self._plan_or_fail(swept)) is None:
            return
        mark_ended = self._store.index.mark_ended
        for flushed in settle(self._store, swept.job, plan, swept.revision, lambda job_id: mark_ended([job_id])):
            self._chains(plan).announce(swept.job, flushed)

    def _announce(self, swept: SweepReply, now_ms: int) -> None:
        """Announce the agents that this sweep made ready, and those that wait for too long."""
        if swept.job is None:
            return
        job_id, now = swept.job.job_id, time.monotonic()
        opens = swept.word is ReplyCode.OPEN and self._is_due(job_id, OPENING, ("", swept.since_ms), now_ms)
        due = [row for row in swept.waiting if self._is_due(job_id, row.pool, (row.oldest, row.ready_ms), now_ms)]
        pools = [OPENING] if swept.word is ReplyCode.OPEN else [row.pool for row in swept.waiting]
        self._reminders.looked_at(job_id, pools, now)
        rows = [row for row in swept.waiting if row.new or (row in due and self._has_room(row.pool, now_ms))]
        if not (opens or rows) or (plan := self._plan_or_fail(swept)) is None:
            return
        chains = self._chains(plan)
        if opens:
            self._reminders.announced_in((job_id, OPENING), plan.opening_pool)
            if self._has_room(plan.opening_pool, now_ms):
                log.info("job %s: not opened yet: announced again", job_id)
                chains.publish(chains.opening(swept.job), swept.job)
                self._reminders.announced((job_id, OPENING), now)
        for row in rows:
            log.info("job %s: %s agents ready in pool %s: announced again", job_id, row.due, row.pool)
            chains.announce(swept.job, row)
            if not row.new:
                self._reminders.announced((job_id, row.pool), now)

    def _chains(self, plan: Plan) -> Chains:
        return Chains(self._app, self._store.settings.redis_namespace, plan)

    def _plan_or_fail(self, swept: SweepReply) -> Plan | None:
        """Return the plan of the job; None if its bundle is lost, with which the job fails."""
        assert swept.job is not None
        try:
            return self._plan_of(swept.job.digest)
        except BundleNotFound as error:
            self._fail(swept, f"{error}: it was deleted or lost; submit the job again")
            return None

    def _is_due(self, job_id: str, pool: str, oldest: Ready, now_ms: int) -> bool:
        """True if the ready agents of *pool* have waited for so long that their announcement may be lost."""
        waited_s = (now_ms - oldest[1]) / 1_000
        return self._reminders.is_due((job_id, pool), oldest, waited_s, time.monotonic())

    def _has_room(self, pool: str, now_ms: int) -> bool:
        """True if one more task may be added to the queue of *pool*, for a job whose task may have been lost.

        A queue that holds as many tasks as jobs wait for it is long but has lost none. Without this limit each sweep
        would add duplicates to a long queue. Jobs at which no sweep has looked yet count as waiting for each pool.
        """
        if self._fresh is None:
            found = self._store.index.live_since(now_ms - FIRST_LOOK_MS - int(2_000 * self._interval_s))
            self._fresh = sum(name not in self._due and not self._reminders.knows(name) for name in found)
        if pool not in self._queued:
            try:
                self._queued[pool] = self._depth.of(queue(self._store.settings.redis_namespace, pool))
            except Exception as error:  # each broker's client has its own exceptions
                log.debug("cannot read the queue length of pool %s: %s", pool, error)
                self._queued[pool] = 0
        if self._queued[pool] >= self._fresh + self._reminders.waiting(pool):
            return False
        self._queued[pool] += 1
        return True

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


def _word(swept: SweepReply | Exception) -> ReplyCode | None:
    return None if isinstance(swept, Exception) else swept.word


def _is_live(swept: SweepReply | Exception) -> bool:
    return _word(swept) not in (None, ReplyCode.ENDED, ReplyCode.MISSING)
