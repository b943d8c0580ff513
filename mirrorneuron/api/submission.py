"""Submit a job: store its bundle, write its record, and announce it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mirrorneuron.bundle.load import JobBundle, PackedBundle, pack
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.bundle.plan import Plan, make_plan
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.errors import BundleNotFound, JobExists, PayloadTooLarge
from mirrorneuron.job import JobStatus
from mirrorneuron.limits import MAX_METADATA_BYTES
from mirrorneuron.message import decode, encode
from mirrorneuron.store.call_threads import settled
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef, ReplyCode

KNOWN: Final = 64  # bundles whose plans a process caches

log = logging.getLogger("mirrorneuron")


class Submission:
    """Submits jobs to *store*; *chains_of* makes the Chains of a plan."""

    def __init__(self, store: Store, chains_of: Callable[[Plan], Chains]) -> None:
        self._store = store
        self._chains_of = chains_of
        self._known: dict[str, Plan] = {}  #: digest -> plan, of bundles that this process has stored

    def submit(self, bundle: JobBundle, job_id: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Submit a validated bundle as *job_id*; *metadata* is merged over that of its manifest.

        Raises JobExists and PayloadTooLarge.

        Once the record is written, the job is submitted: a failed announcement is logged, not raised.
        """
        packed = pack(bundle, self._store.settings.max_bundle_bytes)
        plan = self._known.get(packed.digest) or self._meet(packed, bundle.manifest)
        word, status = self._store.create_job(job_id, plan, packed, _static(job_id, bundle, packed, metadata))
        digest = packed.digest if word is not ReplyCode.CONFLICT else self._digest_of_same(job_id, packed)
        # A pending job that exists already may be ours, with a lost reply. Announcing twice is harmless.
        settled(None)
        if status is JobStatus.PENDING:
            self._announce(plan, JobRef(job_id, 1, digest))

    def _digest_of_same(self, job_id: str, packed: PackedBundle) -> str:
        """The digest of the job's bundle, if it and the inputs are those of *packed*. Raises JobExists.

        JSON objects are unordered: a manifest that was read from a database may have its keys in another order. The
        metadata are those of the job, not of its bundle.
        """
        ref = self._store.ref(job_id)
        if ref is not None:
            with suppress(BundleNotFound):
                manifest, payloads_digest = self._store.bundles.manifest(ref.digest)
                theirs, ours = decode(encode(manifest)), decode(packed.manifest_json)
                same_inputs = theirs.pop("initial_inputs", None) == ours.pop("initial_inputs", None)
                theirs.pop("metadata", None), ours.pop("metadata", None)
                if theirs == ours and payloads_digest == packed.payloads_digest:
                    if same_inputs:
                        return ref.digest
                    raise JobExists(job_id, "other inputs")
        raise JobExists(job_id)

    def _meet(self, packed: PackedBundle, manifest: Manifest) -> Plan:
        """Store a bundle unless the store has it, and plan it. `Store.create_job` renews and checks the known ones."""
        if not self._store.bundles.has(packed):
            self._store.bundles.put(packed)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[packed.digest] = plan = make_plan(manifest)
        return plan

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


def _static(job_id: str, bundle: JobBundle, packed: PackedBundle, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The constant fields of the job map. Raises PayloadTooLarge for too much metadata."""
    manifest = bundle.manifest
    all_metadata = {**manifest.metadata, **(metadata or {})}
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
            "digest": packed.digest,
        },
    }


def _text(path: Path | None) -> str | None:
    """*path* as valid UTF-8: file names may hold any bytes."""
    return os.fsencode(path).decode("utf-8", "replace") if path else None
