"""Prepares submissions: the packed bundle, and the inputs and metadata of the job, which are not part of the bundle.

A bundle that was not changed since it was checked and packed is neither checked nor packed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from mirrorneuron.bundle import fingerprint
from mirrorneuron.bundle.load import (
    MANIFEST_FILE,
    PAYLOADS,
    BundleInput,
    JobBundle,
    PackedBundle,
    Payloads,
    encoded,
    files_unchanged,
    graph_unchanged,
    load,
    pack,
    plain,
)
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.bundle.manifest_draft import Draft
from mirrorneuron.bundle.parse import kind
from mirrorneuron.bundle.start_check import initial_inputs, too_many
from mirrorneuron.errors import ManifestError

MAX_KEPT_BYTES: Final = 8 * 1024 * 1024  #: a larger bundle is packed again for each submission
MAX_KEPT: Final = 16  #: bundles that are kept for their folders or manifests
MAX_SEEN: Final = 64  #: manifests of which it is known that they came before


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A checked submission."""

    bundle: JobBundle  #: as it was given; its inputs and metadata may be others
    packed: PackedBundle
    inputs: Mapping[str, list[Any]]  #: node id -> payloads
    metadata: Mapping[str, Any]  #: of the manifest

    @property
    def inputs_digest(self) -> str:
        return digest_of(self.inputs)


class _Kept(NamedTuple):
    """A bundle that was checked and packed."""

    files: fingerprint.Files
    bundle: JobBundle


_Key: TypeAlias = str | tuple[bytes, str]  #: folder; or fingerprint of a manifest, payloads folder


class Preparation:
    """Prepares the submissions of one client. Thread-safe."""

    def __init__(self, max_bundle_bytes: int, allow_unsandboxed: bool) -> None:
        self._max_bytes = max_bundle_bytes
        self._allowed = allow_unsandboxed
        self._kept: dict[_Key, _Kept] = {}
        self._seen: dict[_Key, None] = {}

    def prepare(self, given: BundleInput, payloads: Payloads, inputs: Mapping[str, Any]) -> JobRequest:
        """Check and pack a submission. *inputs* replace the initial inputs of their nodes.

        Raises ManifestError, PayloadTooLarge and TypeError.
        """
        values: Any = None
        if isinstance(given, JobBundle) and payloads is None:
            bundle = self._of_object(given)
        elif isinstance(given, str | os.PathLike) and payloads is None:
            bundle = self._of_folder(Path(os.fsdecode(given)).absolute())
        elif isinstance(given, dict | Manifest) and isinstance(payloads, str | os.PathLike | None):
            bundle, kept = self._of_manifest(given, payloads)
            values = given if kept else None  # the kept bundle has those of an earlier job
        else:
            bundle = load(given, self._allowed, payloads=payloads)
        packed = bundle._origin.packed
        if packed is None or packed.size > self._max_bytes:
            packed = self._pack(bundle)
        manifest = bundle.manifest
        if values is None and fingerprint.of_job_values(manifest) != bundle._origin.job_values:
            values = manifest
        first, metadata = (
            (manifest.initial_inputs, manifest.metadata) if values is None else _job_values(values, manifest)
        )
        if inputs:
            first = _with_inputs(first, inputs, manifest)
        return JobRequest(bundle, packed, first, metadata)

    def _of_object(self, bundle: JobBundle) -> JobBundle:
        """The bundle itself if its graph and its files were not changed; else a newly checked one."""
        if graph_unchanged(bundle, self._allowed) and files_unchanged(bundle):
            return bundle
        return load(bundle, self._allowed)

    def _of_folder(self, path: Path) -> JobBundle:
        payloads = path / PAYLOADS
        places = path / MANIFEST_FILE, payloads if os.path.lexists(payloads) else None
        files, known = fingerprint.of_files(*places), self._kept.get(str(path))
        if known is not None and known.files == files:
            return known.bundle
        bundle = load(path, self._allowed)
        self._pack(bundle)
        # Read again: a file that was changed while it was packed must not be taken for the packed one.
        if fingerprint.of_files(*places) == files:
            self._keep(str(path), files, bundle)
        return bundle

    def _of_manifest(self, given: dict[str, Any] | Manifest, payloads: Payloads) -> tuple[JobBundle, bool]:
        """The bundle of a manifest, and whether it was kept. One that comes only once is not kept."""
        folder = None if payloads is None else Path(os.fsdecode(payloads)).absolute()
        graph, files = fingerprint.of_graph(given), fingerprint.of_files(folder)
        if graph is None or files is None:
            return load(given, self._allowed, payloads=payloads), False
        key = graph, str(folder)
        known = self._kept.get(key)
        if known is not None and known.files == files:
            return known.bundle, True
        bundle = load(given, self._allowed, payloads=payloads)
        if key in self._seen:
            self._pack(bundle)
            self._keep(key, files, bundle)
        elif len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen[key] = None
        return bundle, False

    def _keep(self, key: _Key, files: fingerprint.Files | None, bundle: JobBundle) -> None:
        if files is not None and bundle._origin.packed is not None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[key] = _Kept(files, bundle)

    def _pack(self, bundle: JobBundle) -> PackedBundle:
        """Pack *bundle*; keep the result with it as long as its files are those that were checked."""
        origin, packed = bundle._origin, pack(bundle, self._max_bytes)
        if packed.size <= MAX_KEPT_BYTES and files_unchanged(bundle):
            bundle._origin = replace(origin, packed=packed)
        return packed


def digest_of(inputs: Mapping[str, Any]) -> str:
    """The SHA-256 of the initial inputs of a job, in which objects are unordered."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _job_values(values: Manifest | dict[str, Any], manifest: Manifest) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Check the inputs and metadata of *values*, whose graph is that of the checked *manifest*."""
    given = values if isinstance(values, dict) else vars(values)
    raw = plain({name: given.get(name) for name in fingerprint.OF_THE_JOB})
    encoded(raw)
    draft = _draft(manifest)
    inputs = initial_inputs(raw["initial_inputs"], manifest.entrypoints, draft)
    metadata = {} if raw["metadata"] is None else raw["metadata"]
    if not isinstance(metadata, dict):
        draft.issue("metadata", f"must be an object, not {kind(metadata)}")
    if draft.issues:
        raise ManifestError(draft.issues)
    return inputs, metadata


def _with_inputs(base: Mapping[str, list[Any]], given: Mapping[str, Any], manifest: Manifest) -> dict[str, list[Any]]:
    """*base* with the *given* inputs of some nodes, checked. Raises ManifestError."""
    raw = plain({"inputs": dict(given)})
    encoded(raw)
    draft = _draft(manifest)
    found = initial_inputs(raw["inputs"], [], draft, "inputs")
    merged = {name: payloads for name, payloads in base.items() if name not in raw["inputs"]} | found
    for name in manifest.entrypoints:
        merged.setdefault(name, [{}])
    too_many(sum(map(len, merged.values())), draft, "inputs")
    if draft.issues:
        raise ManifestError(draft.issues)
    return merged


def _draft(manifest: Manifest) -> Draft:
    return Draft(ids={node.node_id: "" for node in manifest.nodes})
