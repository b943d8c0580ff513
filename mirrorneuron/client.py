"""The job API: submit, wait, inspect. Everything here is a few round trips to the store; the work happens on nodes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, Literal, overload

from celery import Celery

from mirrorneuron import records
from mirrorneuron.app import make_app
from mirrorneuron.bundle import BundleInput, JobBundle, PackedBundle, pack, validate_manifest
from mirrorneuron.chain import Chains
from mirrorneuron.claim import JobRef, Word
from mirrorneuron.connection import reaching
from mirrorneuron.control import Control
from mirrorneuron.errors import Issue, JobExists, JobNotFound, JobStateError, ManifestError
from mirrorneuron.job import (
    TERMINAL,
    AgentSnapshot,
    ClusterOverview,
    Event,
    JobDetails,
    JobMap,
    JobStatus,
    JobSummary,
    NodeInfo,
    is_job_id,
    new_job_id,
)
from mirrorneuron.manifest import Manifest
from mirrorneuron.plan import Plan, make_plan
from mirrorneuron.settings import Settings
from mirrorneuron.store import PAGE, Store
from mirrorneuron.waiting import Deadline, Timeout, until_ended

FOLLOW_MS: Final = 2_000  # one blocking read of a live event stream
RECENT_JOBS: Final = 20

log = logging.getLogger("mirrorneuron")


class Client:
    """The job API on one cluster. Thread-safe; survives `fork`, because a child process makes its own connections."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self._lock = threading.Lock()
        self._parts = _Parts(self.settings)

    @overload
    def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        await_: Literal[False] = False,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
    ) -> str: ...

    @overload
    def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        await_: Literal[True],
        timeout: Timeout = None,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
    ) -> tuple[str, JobMap]: ...

    def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        await_: bool = False,
        timeout: Timeout = None,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
    ) -> str | tuple[str, JobMap]:
        """Validate a bundle, submit it, and return the job id; with *await_* `(job_id, job_map)` once it has ended.

        *input* is a bundle folder, a manifest, or a JobBundle; *job_bundle* is a bundle from `validate_manifest`,
        possibly modified, which is checked again. *timeout* (milliseconds or timedelta) bounds the wait and never
        touches the job. *job_id* makes the submission idempotent.

        Raises ManifestError, PayloadTooLarge, JobExists (the id is taken by another bundle), WaitTimeout, and
        RuntimeUnavailable while the store does not answer. Once the record is written, submission has happened: a
        failed announcement is logged, and the nodes mend it.
        """
        given = job_bundle if input is None else input
        if given is None or (input is not None and job_bundle is not None):
            raise TypeError("give either input or job_bundle")
        if timeout is not None and not await_:
            raise TypeError("timeout needs await_=True")
        deadline = Deadline.after(timeout)
        if job_id is not None and not is_job_id(job_id):
            raise ManifestError([Issue("job_id", f"{job_id!r} is no job id", "1 to 128 of A-Z a-z 0-9 . _ -")])
        submitted = self._submit(validate_manifest(given), job_id)
        if not await_:
            return submitted
        return submitted, self._wait(submitted, deadline)

    def _submit(self, bundle: JobBundle, wanted_id: str | None) -> str:
        parts = self._live_parts()
        packed = pack(bundle, self.settings.max_bundle_bytes)
        plan = make_plan(bundle.manifest)
        job_id = wanted_id or new_job_id(plan.graph_id)
        with reaching(self.settings.redis_url):
            parts.ensure_bundle(packed)
            word, status = parts.store.create(job_id, plan, packed, _static(job_id, bundle, packed))
        if word is Word.CONFLICT:
            raise JobExists(job_id)
        # A job that is there and still pending may be ours, its reply lost: told of twice, it is opened once.
        if status is JobStatus.PENDING:
            parts.announce(plan, JobRef(job_id, 1, packed.digest))
        return job_id

    def wait_for_job(self, job_id: str, timeout: Timeout = None) -> JobMap:
        """Block until the job is completed, failed or cancelled, and return its final record.

        A terminal job is one read. Otherwise a push wakes the wait. Raises JobNotFound at once for an unknown id,
        WaitTimeout after *timeout* (milliseconds or timedelta), RuntimeUnavailable when the store stays away.
        """
        return self._wait(job_id, Deadline.after(timeout))

    def _wait(self, job_id: str, deadline: Deadline) -> JobMap:
        with reaching(self.settings.redis_url, job_id):
            return until_ended(self._live_parts().store, job_id, deadline)

    def inspect_job(self, job_id: str) -> JobMap:
        """The job map. Raises JobNotFound."""
        with reaching(self.settings.redis_url, job_id):
            return _found(self._live_parts().store.job(job_id), job_id)

    def job_manifest(self, job_id: str) -> Manifest:
        """The manifest that the job runs. Raises JobNotFound, and BundleNotFound when the store has lost it."""
        with reaching(self.settings.redis_url, job_id):
            store = self._live_parts().store
            job = _found(store.job(job_id), job_id)
            raw, _ = store.bundles.manifest(job["manifest_ref"]["digest"])
        return Manifest.from_dict(raw)

    def inspect_agents(self, job_id: str) -> list[AgentSnapshot]:
        """A snapshot of every agent, in manifest order. Raises JobNotFound."""
        with reaching(self.settings.redis_url, job_id):
            store = self._live_parts().store
            return store.agents(_found(store.job(job_id), job_id))

    def events(self, job_id: str, *, after: str | None = None, limit: int | None = None) -> list[Event]:
        """The job's events, oldest first: those after event id *after*, or the newest *limit*. Raises JobNotFound."""
        with reaching(self.settings.redis_url, job_id):
            store = self._live_parts().store
            found = store.events(job_id, after=after, limit=limit)
            if not found:
                _found(store.job(job_id), job_id)
            return found

    def stream_events(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """The job's events as they happen, from its first (or from *after*) to the one that ends it.

        Raises JobNotFound, at once and not only when it is iterated.
        """
        self.inspect_job(job_id)
        return self._follow(job_id, after or "0")

    def _follow(self, job_id: str, after: str) -> Iterator[Event]:
        while True:
            with reaching(self.settings.redis_url, job_id):
                store = self._live_parts().store
                ended = JobStatus(_found(store.job(job_id), job_id)["status"]) in TERMINAL
                found = (
                    store.events(job_id, after=after, limit=PAGE) if ended else store.follow(job_id, after, FOLLOW_MS)
                )
                over = ended and not found
            yield from found
            if over or (found and records.ends_the_job(found[-1])):
                return
            after = found[-1]["id"] if found else after

    def inspect_nodes(self) -> list[NodeInfo]:
        """The runtime nodes that are alive, with their pools and hardware."""
        with reaching(self.settings.redis_url):
            return self._live_parts().store.nodes()

    def list_jobs(
        self, *, limit: int | None = None, include_terminal: bool = True, status: str | None = None
    ) -> list[JobSummary]:
        """Summaries of the kept jobs, newest first; only live ones, or of one *status*, if asked for."""
        wanted = JobStatus(status) if status else None
        found: list[JobSummary] = []
        with reaching(self.settings.redis_url):
            live_only = not include_terminal or (wanted is not None and wanted not in TERMINAL)
            for job in self._live_parts().store.jobs(live_only=live_only):
                if limit is not None and len(found) >= limit:
                    break
                if job["status"] == wanted or (wanted is None and (include_terminal or job["status"] not in TERMINAL)):
                    found.append(job)
        return found

    def job_details(self, job_id: str, *, event_limit: int = 25) -> JobDetails:
        """The record, the agents and the newest events of one job. Raises JobNotFound."""
        job = self.inspect_job(job_id)
        with reaching(self.settings.redis_url, job_id):
            agents = self._live_parts().store.agents(job)
        return {"job": job, "agents": agents, "events": self.events(job_id, limit=event_limit)}

    def cluster_overview(self, *, limit: int | None = None) -> ClusterOverview:
        """Nodes, the newest jobs (*limit*, 20 by default), and how many kept jobs are in which status."""
        counts: dict[str, int] = {str(status): 0 for status in JobStatus}
        jobs = self.list_jobs()
        for job in jobs:
            counts[job["status"]] += 1
        return {
            "nodes": self.inspect_nodes(),
            "jobs": jobs[: RECENT_JOBS if limit is None else limit],
            "counts": counts,
        }

    def pause(self, job_id: str) -> JobMap:
        """Let no agent of the job take a new message; what runs finishes. Raises JobNotFound, JobStateError."""
        with reaching(self.settings.redis_url, job_id):
            return self._live_parts().control.pause(job_id)

    def resume(self, job_id: str) -> JobMap:
        """Go on with a paused job. Raises JobNotFound, JobStateError."""
        with reaching(self.settings.redis_url, job_id):
            return self._live_parts().control.resume(job_id)

    def cancel(self, job_id: str, *, reason: str | None = None) -> JobMap:
        """End a job; its running commands are killed on every node. Raises JobNotFound, JobStateError."""
        with reaching(self.settings.redis_url, job_id):
            return self._live_parts().control.cancel(job_id, reason)

    def send_message(self, job_id: str, agent_id: str, message: Any) -> str:
        """Append a message (a payload as in `initial_inputs`, or a full one) to an agent's mailbox; returns its id.

        Sent again with the same `message_id` it is delivered once. Raises JobNotFound, AgentNotFound, JobStateError,
        PayloadTooLarge, and ValueError for what is no message.
        """
        with reaching(self.settings.redis_url, job_id):
            return self._live_parts().control.send(job_id, agent_id, message)

    def retry(self, job_id: str, *, from_agent: str | None = None) -> JobMap:
        """Go on with a failed or cancelled job where it stopped, finished work kept; or from an agent on.

        *from_agent* gets its last input again; the state and mail of it and of all behind it are cleared first.
        Raises JobNotFound, AgentNotFound, JobStateError.
        """
        with reaching(self.settings.redis_url, job_id):
            return self._live_parts().control.retry(job_id, from_agent)

    def cleanup_jobs(self, *, all: bool = False, older_than: timedelta | None = None) -> list[str]:
        """Delete ended jobs, those that ended longer ago than *older_than*; with *all* live ones too, cancelled first.

        Returns the ids of the deleted jobs.
        """
        with reaching(self.settings.redis_url):
            parts = self._live_parts()
            chosen: list[str] = []
            for job in list(parts.store.jobs()):
                ended = JobStatus(job["status"]) in TERMINAL
                age = datetime.now(UTC) - datetime.fromisoformat(job["updated_at"])
                if (not ended and not all) or (older_than is not None and age < older_than):
                    continue
                if not ended:
                    with suppress(JobNotFound, JobStateError):  # it has ended meanwhile
                        parts.control.cancel(job["job_id"], "cleaned up")
                chosen.append(job["job_id"])
            return parts.control.delete(chosen)

    def _live_parts(self) -> _Parts:
        if self._parts.pid != os.getpid():  # forked: connections and Celery's pools stay with the parent
            self._lock = threading.Lock()
            self._parts = _Parts(self.settings)
        return self._parts


class _Parts:
    """What a client holds open in one process."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self._settings = settings
        self._known: dict[str, None] = {}  # digests of bundles that this process has stored or seen

    @cached_property
    def app(self) -> Celery:
        return make_app(self._settings)

    @cached_property
    def store(self) -> Store:
        return Store(self._settings)

    @cached_property
    def control(self) -> Control:
        return Control(self.store, lambda plan: Chains(self.app, self._settings.redis_namespace, plan))

    def ensure_bundle(self, packed: PackedBundle) -> None:
        """Store the bundle unless it is there. Known digests cost nothing: `create` renews and checks them."""
        if packed.digest in self._known:
            return
        if not self.store.bundles.has(packed):
            self.store.bundles.put(packed)
        if len(self._known) >= 1_000:
            self._known.clear()
        self._known[packed.digest] = None

    def announce(self, plan: Plan, job: JobRef) -> None:
        try:
            chains = Chains(self.app, self._settings.redis_namespace, plan)
            chains.send(chains.opening(job), job, task_id=job.job_id)
        except Exception:
            # Whatever the broker's client raises: the job is written, so it is submitted, and the nodes' sweeper
            # announces pending jobs whose chain never arrived.
            log.exception("job %s is submitted, but could not be announced; the nodes will find it", job.job_id)


def _static(job_id: str, bundle: JobBundle, packed: PackedBundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "job_id": job_id,
        "graph_id": manifest.graph_id,
        "job_name": manifest.job_name,
        "daemon": manifest.daemon,
        "root_agent_ids": manifest.entrypoints,
        "placement_policy": manifest.policies.placement_policy,
        "recovery_policy": manifest.policies.recovery_mode,
        "manifest_ref": {
            "graph_id": manifest.graph_id,
            "manifest_version": manifest.manifest_version,
            "manifest_path": str(bundle.manifest_path) if bundle.manifest_path else None,
            "job_path": str(bundle.path) if bundle.path else None,
            "digest": packed.digest,
        },
    }


def _found(job: JobMap | None, job_id: str) -> JobMap:
    if job is None:
        raise JobNotFound(job_id)
    return job
