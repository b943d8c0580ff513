"""The job store: reads the records of jobs, and deletes them.

Changes of a job (claim, commit, settle ...) are scripts: `store.scripts`. `store.creation` creates
jobs, `store.index` lists them, and `store.bundles` holds the bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from mirrorneuron.bundle.plan import Plan, make_plan
from mirrorneuron.errors import JobNotFound
from mirrorneuron.job import (
    AgentSnapshot,
    DeadLetter,
    Event,
    JobMap,
    JobStatus,
    JobSummary,
    LogChunk,
)
from mirrorneuron.message import decode
from mirrorneuron.settings import Settings
from mirrorneuron.store import connection, records
from mirrorneuron.store.activity import Activity
from mirrorneuron.store.bounded_reads import BoundedReads
from mirrorneuron.store.bundle_store import BundleStore
from mirrorneuron.store.call_threads import MAX_THREADS, CallThreads
from mirrorneuron.store.connection import (
    EndsSubscription,
    RedisClient,
    block_ms,
    checked_replies,
    connect,
    node_timeout_s,
    now_ms,
)
from mirrorneuron.store.direct_line import DirectLine
from mirrorneuron.store.ends_listener import EndsListener
from mirrorneuron.store.job_creation import JobCreation
from mirrorneuron.store.job_index import JobIndex
from mirrorneuron.store.key_audit import KeyAudit
from mirrorneuron.store.keys import Keys
from mirrorneuron.store.node_registry import Registry
from mirrorneuron.store.protocol import JobRef, ReplyCode
from mirrorneuron.store.scripts import Limits, Scripts
from mirrorneuron.store.server_clock import ServerClock
from mirrorneuron.store.server_status import ServerStatus
from mirrorneuron.store.status_index import PAGE
from mirrorneuron.store.sweep_lease import SweepLease

IMPATIENT_S: Final = 1.0

T = TypeVar("T")


class Store:
    """The jobs of one namespace on one server. Thread-safe; connects on first use.

    *node* is the name of the worker that claims. A node passes *retries*, so that its commands are retried while the
    store is unreachable. *clock* (ms) replaces the server's time in tests.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client: RedisClient | None = None,
        node: str = "",
        retries: int | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.settings = settings
        self.client = client or (
            connect(settings.redis_url, timeout_s=min(connection.COMMAND_TIMEOUT_S, settings.client_timeout_s))
            if retries is None
            else connect(settings.redis_url, retries=retries, timeout_s=node_timeout_s(settings.claim_lease_ms))
        )
        self.keys = Keys(settings.redis_namespace)
        self.scripts = Scripts(
            self.client,
            self.keys,
            node=node,
            lease_ms=settings.claim_lease_ms,
            keep_s=settings.retention_seconds,
            limits=Limits(settings.max_mail_bytes, settings.events_max, settings.events_max_bytes),
            clock=clock,
        )
        self._clock = clock
        # Made here and not on first use: the lock of a `cached_property` may be inherited by a child process.
        connections: int = self.client.connection_pool.max_connections
        self.direct = DirectLine(self.client)
        #: threads for the calls of a producer: fewer than connections, so that no call finds none
        self.calls = CallThreads(max(1, min(MAX_THREADS, connections - 1 - self.direct.most)))
        self.reads = BoundedReads(self.client, self.keys, self.direct, self.calls)
        self.ends = EndsListener(self.client)
        #: the server's time; it stamps messages and judges their age
        self.clock = ServerClock(self.now_ms, *((0.0,) if clock else ()))
        self.index = JobIndex(self.client, self.keys, settings.retention_seconds, self.clock.now_ms)
        self.bundles = BundleStore(self.client, self.keys, settings.retention_seconds, settings.max_bundle_bytes)
        self.registry = Registry(self.client, self.keys, self.clock.now_ms, queues_here=not settings.broker_url)
        self.activity = Activity(self.client, self.keys)
        self.server = ServerStatus(self.client, self.keys)
        self.audit = KeyAudit(self.client, self.keys)
        self.sweep_lease = SweepLease(self.client, self.keys, clock)
        self.creation = JobCreation(settings, self.scripts, self.index, self.bundles, self.direct, self.clock)

    def impatient(self, timeout_s: float = IMPATIENT_S) -> Store:
        """The same store on other connections, with this timeout and no retries."""
        return Store(self.settings, client=connect(self.settings.redis_url, retries=0, timeout_s=timeout_s))

    def job_ends(self) -> EndsSubscription:
        """Return a new subscription to the ends of jobs. It connects when `subscribe` is called."""
        return EndsSubscription(self.client, self.keys.ends)

    def close(self) -> None:
        """Close the connections. The next command connects again."""
        self.direct.close()
        self.client.close()

    def delete(self, job_id: str, agents: Sequence[str]) -> bool:
        """Delete an ended job with all its keys. Returns False if the job is live or does not exist."""
        if self.scripts.delete(job_id, agents) is not ReplyCode.SETTLED:
            return False
        self.index.remove(job_id)
        return True

    def free_bundles(self, digests: set[str]) -> None:
        """Let the bundles of deleted jobs expire soon, except those that a kept job needs."""
        kept = self._kept_bundles()
        self.bundles.free(digests - kept, kept)
        # A job that was created meanwhile may have renewed its bundle just before `free`.
        self.bundles.renew((digests - kept) & self._kept_bundles())

    def _kept_bundles(self) -> set[str]:
        return set().union(*(self.index.digests(ids) for ids in self.index.pages()))

    def found_agents(self, job_id: str) -> list[str]:
        """Return the agents of a job from its own record, for a job whose bundle is lost."""
        raw = self.client.hget(self.keys.job(job_id), "agents")
        with records.reading(f"the agents of job {job_id!r}"):
            return [str(name) for name in decode(raw)] if raw else []

    def read_job(self, job_id: str) -> JobMap | None:
        """Return the job map, None if there is no such job. One read. Raises RecordDamaged."""
        return records.job_map(job_id, self.client.hmget(self.keys.job(job_id), records.JOB_FIELDS))

    def has_job(self, job_id: str) -> bool:
        """Return True if the job has a record, whether or not it can be read."""
        return bool(self.client.exists(self.keys.job(job_id)))

    def known_job(self, job_id: str) -> JobMap:
        """Return the job map. One read. Raises JobNotFound and RecordDamaged."""
        job = self.read_job(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    def ref(self, job_id: str) -> JobRef | None:
        """Return the job's current run and bundle, None if there is no such job. Raises RecordDamaged."""
        run, digest = self.client.hmget(self.keys.job(job_id), ["run", "digest"])
        with records.reading(f"the run of job {job_id!r}"):
            return JobRef(job_id, int(run), digest.decode()) if run and digest else None

    def inputs_digest(self, job_id: str) -> str:
        """Return the digest of the job's initial inputs; "" if its record has none, as in earlier versions."""
        return (self.client.hget(self.keys.job(job_id), "inputs") or b"").decode("utf-8", "replace")

    def plan(self, digest: str) -> tuple[Plan, str | None]:
        """Return the plan of a bundle and the digest of its payloads. Raises BundleNotFound."""
        manifest, payloads_digest = self.bundles.manifest(digest)
        return make_plan(manifest), payloads_digest

    def agents(self, job: JobMap) -> list[AgentSnapshot]:
        """Return a snapshot of every agent of *job*, in manifest order. Raises JobNotFound.

        The agents of one page (PAGE of them) are read in one transaction.
        """
        job_id = job["job_id"]
        plan, _ = self.plan(job["manifest_ref"]["digest"])
        found: list[AgentSnapshot] = []
        nodes = list(plan.nodes.values())
        for at in range(0, len(nodes), PAGE):
            page = nodes[at : at + PAGE]
            pipe = self.client.pipeline(transaction=True)  # an agent could be claimed between two reads
            pipe.hget(self.keys.job(job_id), "status")
            for node in page:
                pipe.hmget(self.keys.agent(job_id, node.node_id), records.AGENT_FIELDS)
                pipe.llen(self.keys.mail(job_id, node.node_id))
                pipe.zscore(self.keys.claims(job_id), node.node_id)
            status, *rows = pipe.execute()
            if status is None:
                raise JobNotFound(job_id)
            for node, row, depth, lease in zip(page, rows[::3], rows[1::3], rows[2::3], strict=True):
                found.append(records.snapshot(node, row, depth, lease, job_id, status, self.settings.claim_lease_ms))
        return found

    def last_bodies(self, job_id: str, agents: Sequence[str]) -> dict[str, Any]:
        """Return for each agent the last body that it emitted, or else the last one that it received.

        Agents that did neither are left out. Raises RecordDamaged.
        """
        pipe = self.client.pipeline(transaction=False)
        for agent in agents:
            pipe.hmget(self.keys.agent(job_id, agent), ["output", "last"])
            pipe.lindex(self.keys.mail(job_id, agent), -1)  # received but not consumed yet
        rows = pipe.execute()
        bodies: dict[str, Any] = {}
        for agent, (output, consumed), waiting in zip(agents, rows[::2], rows[1::2], strict=True):
            last = waiting or consumed
            with records.reading(f"the last message of agent {agent!r} of job {job_id!r}"):
                if output:
                    bodies[agent] = decode(output)
                elif last:
                    bodies[agent] = decode(last)["body"]
        return bodies

    def events(self, job_id: str, *, after: str | None = None, limit: int | None = None) -> list[Event]:
        """Return the events after the id *after*, oldest first. Without *after*, *limit* selects the newest ones."""
        key = self.keys.events(job_id)
        if limit is not None and limit <= 0:
            return []
        if after is None and limit is not None:
            rows = self.client.xrevrange(key, count=limit)[::-1]
        else:
            rows = self.client.xrange(key, min=f"({after}" if after else "-", count=limit)
        return list(records.readable(partial(records.event, job_id), rows))

    def follow(self, job_id: str, after: str, wait_ms: int) -> list[Event]:
        """Return a page of events after the event id *after* (or "0"). Waits up to *wait_ms* for the first one."""
        return self._page(self.keys.events(job_id), partial(records.event, job_id), after, wait_ms)

    def logs(self, job_id: str, after: str, wait_ms: int) -> list[LogChunk]:
        """Return a page of commands' output after the id *after*. Waits up to *wait_ms* for the first chunk."""
        return self._page(self.keys.logs(job_id), partial(records.log_chunk, job_id), after, wait_ms)

    def _page(self, key: str, read: Callable[..., T], after: str | bytes, wait_ms: int) -> list[T]:
        while rows := self.client.xread({key: after}, count=PAGE, block=block_ms(self.client, wait_ms)):
            if found := list(records.readable(read, rows[0][1])):
                return found
            after = rows[0][1][-1][0]  # a page without a readable entry is not the last page
        return []

    def first_message(self, job_id: str, agent: str) -> bytes | None:
        """Return the JSON of the message at the head of the agent's mailbox; None if the mailbox is empty."""
        raw: bytes | None = self.client.lindex(self.keys.mail(job_id, agent), 0)
        return raw

    def dead_letter_count(self, job_id: str) -> int:
        """Return the number of dead letters, without the message on which a failed job stopped."""
        return int(self.client.xlen(self.keys.dead(job_id)))

    def dead_letters(self, job: JobMap) -> list[tuple[str, DeadLetter]]:
        """Return the dead letters of *job*, oldest first, each with the id of its stream entry.

        If the job failed, the last one is the message on which it stopped. That message has the entry id "", because it
        stays in its mailbox for `retry`.
        """
        job_id = job["job_id"]
        rows = self.client.xrange(self.keys.dead(job_id))
        read = partial(records.dead_letter, job_id)
        found = list(records.readable(lambda entry, fields: (entry.decode(), read(entry, fields)), rows))
        result = job["result"] or {}
        agent = result.get("agent_id") if job["status"] == JobStatus.FAILED else None
        if agent and (raw := self.first_message(job_id, agent)):
            found += (("", dead) for dead in records.readable(records.stopped_on, [(raw, agent, job)]))
        return found

    def jobs(self, *, live_only: bool = False) -> Iterator[JobSummary]:
        """Yield the rows of `job_pages`."""
        for page in self.job_pages(live_only=live_only):
            yield from page

    def job_pages(self, *, live_only: bool = False, status: JobStatus | None = None) -> Iterator[list[JobSummary]]:
        """Yield pages of summaries as `JobIndex.pages`. Skips a job whose record cannot be read."""
        for names in self.index.pages(live_only=live_only, status=status):
            pipe = self.client.pipeline(transaction=False)
            for name in names:
                pipe.hmget(self.keys.job(name), [f for f in records.JOB_FIELDS if f != "result"])
            rows = zip(names, checked_replies(pipe.execute(raise_on_error=False)), strict=True)
            yield [records.summary(job) for job in records.readable(records.job_head, rows) if job]

    def check_writes(self) -> None:
        """Send a write that changes nothing. Raises one of `connection.UNREACHABLE` if the server refuses it."""
        self.client.setrange(self.keys.swept, 0, "")

    def now_ms(self) -> int:
        """Return the server's time. The clocks of nodes may be wrong."""
        return self._clock() if self._clock else now_ms(self.client)
