"""Submit a job: store its bundle, write its record, and announce it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from kombu import Producer

from mirrorneuron.bundle.load import PackedBundle
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.bundle.plan import Plan, make_plan
from mirrorneuron.bundle.prepare import JobRequest
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.dispatch.list_message import ListMessage, list_message, publishing_is_watched
from mirrorneuron.errors import BundleNotFound, JobExists, PayloadTooLarge
from mirrorneuron.job import JobStatus
from mirrorneuron.limits import MAX_METADATA_BYTES
from mirrorneuron.message import decode, encode
from mirrorneuron.store.call_threads import settled
from mirrorneuron.store.direct_line import NotDirect
from mirrorneuron.store.job_creation import JobDraft
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef, ReplyCode

KNOWN: Final = 64  # bundles whose plans a process caches

log = logging.getLogger("mirrorneuron")


class _Known(NamedTuple):
    """A bundle that this process has stored."""

    plan: Plan
    message: ListMessage | None  #: announces a job of the bundle in the round trip of its creation


class Submission:
    """Submits jobs to *store*; *chains_of* makes the Chains of a plan.

    *queues_here*: the broker's queues are lists on the store's server.
    """

    def __init__(self, store: Store, chains_of: Callable[[Plan], Chains], *, queues_here: bool = False) -> None:
        self._store = store
        self._chains_of = chains_of
        self._queues_here = queues_here
        self._known: dict[str, _Known] = {}  #: by digest

    def submit_directly(
        self, request: JobRequest, job_id: str, metadata: Mapping[str, Any] | None, seconds: float
    ) -> None:
        """`submit` in the caller's own thread, if one round trip on an open connection is all that it takes.

        Raises PayloadTooLarge, and NotDirect: then `submit` has to be called, whatever was done.
        """
        known = self._known.get(request.packed.digest)
        if known is None:
            raise NotDirect
        self._store.creation.create_directly(self._draft(request, job_id, metadata, known), seconds)

    def submit(self, request: JobRequest, job_id: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Submit a checked request as *job_id*; *metadata* is merged over that of its manifest.

        Raises JobExists and PayloadTooLarge.

        Once the record is written, the job is submitted: a failed announcement is logged, not raised.
        """
        packed = request.packed
        known = self._known.get(packed.digest) or self._meet(packed, request.bundle.manifest)
        created = self._store.creation.create(self._draft(request, job_id, metadata, known))
        digest = packed.digest if created.word is not ReplyCode.CONFLICT else self._digest_of_same(job_id, request)
        # A pending job that exists already may be ours, with a lost reply. Announcing twice is harmless.
        settled(None)
        if created.status == JobStatus.PENDING and not created.announced:
            self._announce(known.plan, JobRef(job_id, 1, digest))

    def _draft(self, request: JobRequest, job_id: str, metadata: Mapping[str, Any] | None, known: _Known) -> JobDraft:
        message = None if publishing_is_watched() else known.message
        return JobDraft(
            job_id,
            known.plan,
            request.packed,
            _static(job_id, request, metadata),
            request.inputs,
            request.inputs_digest,
            None if message is None else (message.queue, message.of_job(job_id)),
        )

    def _digest_of_same(self, job_id: str, request: JobRequest) -> str:
        """The digest of the job's bundle, if it and the inputs are those of *request*. Raises JobExists.

        JSON objects are unordered: a manifest that was read from a database may have its keys in another order.
        """
        ref = self._store.ref(job_id)
        if ref is not None:
            with suppress(BundleNotFound):
                manifest, payloads_digest = self._store.bundles.manifest(ref.digest)
                theirs, ours = decode(encode(manifest)), decode(request.packed.manifest_json)
                their_inputs = theirs.pop("initial_inputs")
                theirs.pop("metadata")
                if theirs == ours and payloads_digest == request.packed.payloads_digest:
                    known = self._store.inputs_digest(job_id)
                    # Jobs of earlier versions have no digest of their inputs: these are in their bundle.
                    same = known == request.inputs_digest if known else their_inputs == request.inputs
                    if same:
                        return ref.digest
                    raise JobExists(job_id, "other inputs")
        raise JobExists(job_id)

    def _meet(self, packed: PackedBundle, manifest: Manifest) -> _Known:
        """Store a bundle unless the store has it, and plan it. `JobCreation` renews and checks the known ones."""
        if not self._store.bundles.has(packed):
            self._store.bundles.put(packed)
        if len(self._known) >= KNOWN:
            self._known.clear()
        plan = make_plan(manifest)
        self._known[packed.digest] = known = _Known(plan, self._message(plan, packed.digest))
        return known

    def _message(self, plan: Plan, digest: str) -> ListMessage | None:
        if not self._queues_here or publishing_is_watched():
            return None
        chains = self._chains_of(plan)

        def publish(job_id: str, producer: Producer) -> None:
            job = JobRef(job_id, 1, digest)
            chains.publish(chains.opening(job), job, task_id=job_id, producer=producer)

        try:
            return list_message(publish)
        except Exception:  # Celery and kombu raise errors of any type; each job is then announced by them
            log.debug("no announcement in the round trip of a submission", exc_info=True)
            return None

    def _announce(self, plan: Plan, job: JobRef) -> None:
        job_id = job.job_id
        try:
            chains = self._chains_of(plan)
            chains.publish(chains.opening(job), job, task_id=job_id)
        except Exception as error:
            # Broker clients raise errors of any type. The record is written, so the job is submitted, and the sweeper
            # announces pending jobs whose chain was lost.
            log.error("job %s is submitted, but its announcement failed; the sweeper will repeat it: %s", job_id, error)
            log.debug("announcement of job %s failed", job_id, exc_info=True)


def _static(job_id: str, request: JobRequest, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The constant fields of the job map. Raises PayloadTooLarge for too much metadata."""
    bundle, manifest = request.bundle, request.bundle.manifest
    all_metadata = {**request.metadata, **(metadata or {})}
    if (size := len(encode(all_metadata))) > MAX_METADATA_BYTES:
        raise PayloadTooLarge(f"the metadata has {size} bytes as JSON; at most {MAX_METADATA_BYTES} are allowed")
    return {
        "job_id": job_id,
        "graph_id": manifest.graph_id,
        "job_name": manifest.job_name,
        "daemon": manifest.daemon,
        "root_agent_ids": manifest.entrypoints,
        "placement_policy": manifest.policies.placement_policy,
        "recovery_policy": manifest.policies.recovery_mode,
        "metadata": all_metadata,
        "manifest_ref": {
            "graph_id": manifest.graph_id,
            "manifest_version": manifest.manifest_version,
            "manifest_path": _text(bundle.manifest_path),
            "job_path": _text(bundle.path),
            "digest": request.packed.digest,
        },
    }


def _text(path: Path | None) -> str | None:
    """*path* as valid UTF-8: file names may hold any bytes."""
    return os.fsencode(path).decode("utf-8", "replace") if path else None
