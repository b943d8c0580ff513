"""The job API: submit, wait, inspect, control. Calls are a few round trips to the store; nodes do the work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from itertools import chain, islice
from typing import Any, Final, Literal, TypeAlias, overload

from celery.result import AsyncResult

from mirrorneuron.api import arguments
from mirrorneuron.api.bounded_calls import BoundedCalls
from mirrorneuron.api.resources import Resources
from mirrorneuron.api.streams import follow_events, follow_logs
from mirrorneuron.api.waiting import Deadline, Timeout, until_ended
from mirrorneuron.bundle.load import BundleInput, JobBundle, Payloads, validate_manifest
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.bundle.prepare import JobRequest
from mirrorneuron.diagnostics.job_diagnosis import Diagnosis, store_away
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.job import (
    TERMINAL,
    AgentSnapshot,
    ClusterOverview,
    DeadLetter,
    Event,
    JobDetails,
    JobMap,
    JobStatus,
    JobSummary,
    LogChunk,
    NodeInfo,
    new_job_id,
)
from mirrorneuron.store.connection import reaching
from mirrorneuron.store.direct_line import NotDirect, rest_of

RECENT_JOBS: Final = 20

Inputs: TypeAlias = Mapping[str, Any] | None  #: node id -> payload or list of payloads
Metadata: TypeAlias = Mapping[str, Any] | None
SubmitTimeout: TypeAlias = float | timedelta | None  #: seconds, or a timedelta; None stands for the setting


class Client(BoundedCalls):
    """The job API on one cluster. Thread-safe and fork-safe: a child process opens its own connections."""

    validate_manifest = staticmethod(validate_manifest)  # needs no server

    @overload
    def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        inputs: Inputs = None,
        metadata: Metadata = None,
        payloads: Payloads = None,
        await_: Literal[False] = False,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
        submit_timeout: SubmitTimeout = None,
    ) -> str: ...

    @overload
    def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        inputs: Inputs = None,
        metadata: Metadata = None,
        payloads: Payloads = None,
        await_: Literal[True],
        timeout: Timeout = None,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
        submit_timeout: SubmitTimeout = None,
    ) -> tuple[str, JobMap]: ...

    def run_manifest(
        self,
        input: BundleInput | None = None,
        *,
        inputs: Inputs = None,
        metadata: Metadata = None,
        payloads: Payloads = None,
        await_: bool = False,
        timeout: Timeout = None,
        job_bundle: JobBundle | None = None,
        job_id: str | None = None,
        submit_timeout: SubmitTimeout = None,
    ) -> str | tuple[str, JobMap]:
        """Validate a bundle, submit it, and return the job id; with *await_* `(job_id, job_map)` once it has ended.

        *input* is a bundle folder, a manifest (with the folder *payloads*), or a JobBundle; *job_bundle* is a bundle
        from `validate_manifest`, which is checked again if it or its files were changed. *inputs* (node id to payload
        or list of payloads) replace the initial inputs of these nodes, and *metadata* (a flat object) is merged over
        the manifest's; neither is part of the bundle. *timeout* (milliseconds or timedelta) bounds the wait and never
        touches the job. *job_id* makes the submission idempotent. *submit_timeout* (seconds or timedelta) bounds the
        wait for the store and the broker, in place of MIRROR_NEURON_CLIENT_TIMEOUT_MS.

        Raises ManifestError, PayloadTooLarge, JobExists (the id has another bundle or other inputs), WaitTimeout, and
        RuntimeUnavailable while the store does not answer: its `job_id` is the id that was used, and a submission that
        is repeated with it makes no second job. Once the record is written, submission has happened: a failed
        announcement is logged, and the sweeper repeats it.
        """
        if timeout is not None and not await_:
            raise TypeError("timeout requires await_=True")
        deadline, seconds = Deadline.after(timeout), self._submit_seconds(submit_timeout)
        labels = arguments.metadata(metadata)
        request, new_id = self._prepared(input, payloads, job_bundle, job_id, arguments.inputs(inputs))
        self._submit(new_id, request, labels, seconds)
        return (new_id, self._wait(new_id, deadline, fresh=True)) if await_ else new_id

    def _submit_seconds(self, submit_timeout: SubmitTimeout) -> float:
        """How long a submission may wait for the store and the broker. Raises TypeError and ValueError."""
        return arguments.seconds("submit_timeout", submit_timeout) or self.settings.client_timeout_s

    def _prepared(
        self,
        input: BundleInput | None,
        payloads: Payloads,
        job_bundle: JobBundle | None,
        job_id: str | None,
        inputs: Mapping[str, Any],
    ) -> tuple[JobRequest, str]:
        """A checked submission, and the id of the new job. No I/O with a server.

        Raises ManifestError and PayloadTooLarge.
        """
        given = job_bundle if input is None else input
        if given is None or (input is not None and job_bundle is not None):
            raise TypeError("give either input or job_bundle")
        arguments.new_job_id(job_id)
        request = self._live_parts().preparation.prepare(given, payloads, inputs)
        return request, job_id or new_job_id(request.bundle.manifest.graph_id)

    def _submit(self, job_id: str, request: JobRequest, metadata: Mapping[str, Any], seconds: float) -> None:
        """Submit a job within *seconds*. Raises JobExists, PayloadTooLarge and RuntimeUnavailable."""
        known, began = self._live_parts().known_submission, time.monotonic()
        with reaching(self.settings.redis_url, job_id):
            if known is not None:
                with suppress(NotDirect):
                    known.submit_directly(request, job_id, metadata, seconds)
                    return
            left = rest_of(seconds, began)
        self._call(job_id, lambda resources: resources.submission.submit(request, job_id, metadata), left)

    def wait_for_job(self, job_id: str, timeout: Timeout = None) -> JobMap:
        """Block until the job is completed, failed or cancelled, and return its final record.

        An ended job costs one read; otherwise a push wakes the wait. Raises JobNotFound at once for an unknown id,
        WaitTimeout after *timeout* (milliseconds or timedelta), RuntimeUnavailable when the store stays unreachable.
        """
        return self._wait(job_id, Deadline.after(timeout))

    def _wait(self, job_id: str, deadline: Deadline, *, fresh: bool = False) -> JobMap:
        arguments.job_id(job_id)
        with reaching(self.settings.redis_url, job_id):
            return until_ended(self._live_parts().store, job_id, deadline, fresh=fresh)

    def async_result(self, job_id: str) -> AsyncResult:
        """The job as a Celery `AsyncResult` of this client's own app. Raises JobNotFound; `get()` refuses in a task."""
        self.inspect_job(job_id)
        return self._live_parts().app.AsyncResult(job_id)

    def inspect_job(self, job_id: str) -> JobMap:
        """The job map. Raises JobNotFound."""
        arguments.job_id(job_id)
        with reaching(self.settings.redis_url, job_id):
            return self._live_parts().store.reads.job(job_id, self.settings.client_timeout_s)

    def job_manifest(self, job_id: str) -> Manifest:
        """The manifest that the job runs, without initial inputs: these are the first messages of the job.

        Raises JobNotFound, and BundleNotFound when the store has lost it.
        """
        job = self.inspect_job(job_id)
        digest = job["manifest_ref"]["digest"]
        manifest = self._call(job_id, lambda resources: resources.store.bundles.manifest(digest)[0])
        manifest.initial_inputs, manifest.metadata = {}, job["metadata"]
        return manifest

    def inspect_agents(self, job_id: str) -> list[AgentSnapshot]:
        """A snapshot of every agent, in manifest order. Raises JobNotFound."""
        return self._call(job_id, lambda resources: resources.store.agents(resources.store.known_job(job_id)))

    def events(self, job_id: str, *, after: str | None = None, limit: int | None = None) -> list[Event]:
        """The job's events, oldest first: those after event id *after*, or the newest *limit*. Raises JobNotFound."""
        arguments.event_id(after)
        limit = arguments.count("limit", limit)

        def read(resources: Resources) -> list[Event]:
            found = resources.store.events(job_id, after=after, limit=limit)
            if not found:
                resources.store.known_job(job_id)
            return found

        return self._call(job_id, read)

    def stream_events(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """The job's events as they happen, from its first (or from *after*) to the one that ends it.

        Raises JobNotFound at the call, not at the first iteration.
        """
        arguments.event_id(after)
        self.inspect_job(job_id)
        return follow_events(self.settings, job_id, after or "0")

    def logs(self, job_id: str, agent_id: str | None = None, *, follow: bool = False) -> Iterator[LogChunk]:
        """The output of commands and modules, of one agent or of all; with *follow*, until the job has ended.

        The newest MIRROR_NEURON_LOGS_MAX_BYTES of a job are kept. The output of repeated runs is included.
        Raises JobNotFound and AgentNotFound at the call, not at the first iteration.
        """
        arguments.text("agent_id", agent_id, optional=True)
        if agent_id is None:
            self.inspect_job(job_id)
        else:
            self._call(job_id, lambda resources: resources.control.check_agent(job_id, agent_id))
        chunks = follow_logs(self.settings, job_id) if follow else self._logs_so_far(job_id)
        return (chunk for chunk in chunks if agent_id in (None, chunk["agent_id"]))

    def _logs_so_far(self, job_id: str) -> Iterator[LogChunk]:
        after = "0"
        while found := self._call(job_id, lambda resources: resources.store.logs(job_id, after, 0)):  # noqa: B023
            yield from found
            after = found[-1]["id"]

    def inspect_nodes(self) -> list[NodeInfo]:
        """The runtime nodes that are alive, with their pools and hardware."""
        return self._ask(lambda resources: resources.store.registry.nodes())

    def list_jobs(
        self,
        *,
        limit: int | None = None,
        include_terminal: bool = True,
        status: str | None = None,
        metadata: Metadata = None,
    ) -> list[JobSummary]:
        """Summaries of the kept jobs, newest first: all, only live ones, or those with one *status* or this *metadata*.

        Skips jobs whose record cannot be read. Raises ValueError for an unknown status.
        """
        wanted, limit, labels = arguments.status(status), arguments.count("limit", limit), arguments.metadata(metadata)
        found = (
            job
            for page in self._each(lambda own: own.store.job_pages(live_only=not include_terminal, status=wanted))
            for job in page
            if job["status"] == wanted or (wanted is None and (include_terminal or job["status"] not in TERMINAL))
            if arguments.has_metadata(job["metadata"], labels)
        )
        return list(islice(found, limit))

    def job_details(self, job_id: str, *, event_limit: int = 25) -> JobDetails:
        """The record, the agents and the newest events of one job. Raises JobNotFound."""
        event_limit = arguments.count("event_limit", event_limit) or 0
        job = self.inspect_job(job_id)
        agents = self._call(job_id, lambda resources: resources.store.agents(job))
        return {"job": job, "agents": agents, "events": self.events(job_id, limit=event_limit)}

    def cluster_overview(self, *, limit: int | None = None) -> ClusterOverview:
        """Nodes, the newest jobs (*limit*, 20 by default), and the number of kept jobs by status."""
        limit = arguments.count("limit", limit)
        newest = self.list_jobs(limit=RECENT_JOBS if limit is None else limit)
        counts = self._ask(lambda resources: resources.store.index.by_status.counts())
        if counts is None:  # an index of an earlier version, which a sweeper completes
            counts = Counter(job["status"] for job in self.list_jobs())
        counted = {str(status): counts[status] for status in JobStatus}
        return {"nodes": self.inspect_nodes(), "jobs": newest, "counts": counted}

    def pause(self, job_id: str) -> JobMap:
        """Pause a job: runs in progress finish, no new one starts. Raises JobNotFound, JobStateError."""
        return self._call(job_id, lambda resources: resources.control.pause(job_id))

    def resume(self, job_id: str) -> JobMap:
        """Resume a paused job. Raises JobNotFound, JobStateError."""
        return self._call(job_id, lambda resources: resources.control.resume(job_id))

    def cancel(self, job_id: str, *, reason: str | None = None) -> JobMap:
        """Cancel a job; its running commands are killed on every node. Raises JobNotFound, JobStateError."""
        arguments.reason(reason)
        return self._call(job_id, lambda resources: resources.control.cancel(job_id, reason))

    def send_message(self, job_id: str, agent_id: str, message: Any) -> str:
        """Append a message (an object as in `initial_inputs`, or a full one) to an agent's mailbox; returns its id.

        Idempotent for a given `message_id`, while it is among the newest 10,000 of the job. Raises JobNotFound,
        AgentNotFound, JobStateError, PayloadTooLarge, and MessageInvalid.
        """
        arguments.text("agent_id", agent_id)
        return self._call(job_id, lambda resources: resources.control.deliver_message(job_id, agent_id, message))

    def retry(self, job_id: str, *, from_agent: str | None = None) -> JobMap:
        """Continue a failed or cancelled job where it stopped, keeping finished work; or rerun it from an agent.

        *from_agent* gets its last input again. Its state and mailbox, and those of all agents downstream of it, are
        cleared first; a `mail_cleared` event records each agent that had messages.
        Raises JobNotFound, AgentNotFound, JobStateError.
        """
        arguments.text("from_agent", from_agent, optional=True)
        return self._call(job_id, lambda resources: resources.control.retry(job_id, from_agent))

    def dead_letters(self, job_id: str) -> list[DeadLetter]:
        """The messages that were given up on, with their reasons, oldest first: the newest 1000. Raises JobNotFound.

        Their recipient does not exist, or they expired. If the job failed, the last one is the message on which it
        failed: `retry` runs it again.
        """
        job = self.inspect_job(job_id)
        return self._call(job_id, lambda resources: [dead for _, dead in resources.store.dead_letters(job)])

    def replay(self, job_id: str, message_id: str, *, to_agent: str | None = None) -> str:
        """Send a dead letter again, to its recipient or to *to_agent*; returns the id of the new message.

        The dead letter is removed. Raises JobNotFound, MessageNotFound, AgentNotFound (the recipient does not exist:
        give *to_agent*) and JobStateError (the job has ended).
        """
        arguments.text("message_id", message_id)
        arguments.text("to_agent", to_agent, optional=True)
        return self._call(job_id, lambda resources: resources.control.replay(job_id, message_id, to_agent))

    def why(self, job_id: str) -> Diagnosis:
        """Why the job does not move, since when, what to do; an unreachable store is a cause. Raises JobNotFound."""
        try:
            return self._call(job_id, lambda resources: resources.diagnosis(job_id))
        except RuntimeUnavailable as error:
            return store_away(job_id, error)

    def cleanup_jobs(self, *, all: bool = False, older_than: timedelta | None = None) -> list[str]:
        """Delete ended jobs; with *all*, cancel and delete live ones too. Returns the ids of the deleted jobs.

        *older_than* keeps the jobs that were updated more recently than that.
        """
        arguments.age("older_than", older_than)
        steps = self._each(lambda resources: resources.control.cleanup(live_too=all, older_than=older_than))
        return list(chain.from_iterable(steps))
