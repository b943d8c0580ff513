"""Bundles: reads, checks and packs a manifest and its payloads.

load   folder, mapping or bundle -> JobBundle, or ManifestError with every issue; writes nothing
pack   JobBundle -> the bytes that the store keeps for its jobs, and their SHA-256 digest

A bundle is code and graph. The initial inputs and the metadata of its manifest belong to a job, and are not packed.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from mirrorneuron.bundle import archive, fingerprint
from mirrorneuron.bundle.exact_json import duplicate_keys, inexact_values
from mirrorneuron.bundle.issue_subjects import with_subjects
from mirrorneuron.bundle.lint import warnings
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.bundle.parse import kind
from mirrorneuron.bundle.schema import as_dict
from mirrorneuron.bundle.uploads import Sources
from mirrorneuron.bundle.validate import check
from mirrorneuron.errors import Issue, ManifestError, PayloadTooLarge
from mirrorneuron.limits import MAX_MANIFEST_BYTES, unsandboxed_allowed
from mirrorneuron.message import decode, encode
from mirrorneuron.processes.first_use import first_use

MANIFEST_FILE: Final = "manifest.json"
PAYLOADS: Final = "payloads"
_JSON_HINT: Final = "use only JSON values: no NaN, no Infinity, no other Python objects, not nested too deeply"
_NO_FOLDER: Final = "the manifest was given as a mapping, without `payloads`"


@dataclass(frozen=True, slots=True)
class PackedBundle:
    """The bytes of a bundle; the folder is not needed any more."""

    manifest_json: bytes  #: the checked manifest without inputs and metadata, aliases resolved, defaults filled in
    payloads: bytes | None  #: archive of the payloads folder
    payloads_digest: str | None  #: SHA-256 of `payloads`, hexadecimal
    digest: str  #: SHA-256 of the manifest and the payloads' digest

    @property
    def size(self) -> int:
        """Bytes of manifest and payloads."""
        return len(self.manifest_json) + len(self.payloads or b"")


@dataclass(frozen=True, slots=True)
class Origin:
    """The state of a bundle when it was checked; shows whether the bundle was changed afterwards."""

    graph: bytes | None = None  #: fingerprint of the manifest without inputs and metadata
    job_values: bytes | None = None  #: fingerprint of its inputs and metadata
    files: fingerprint.Files | None = None  #: fingerprint of the payloads; None if they must be checked again
    allow_unsandboxed: bool = False
    payloads_path: Path | None = None
    filled: Mapping[str, Any] = field(default_factory=dict)  #: the defaults that validation put into the manifest
    packed: PackedBundle | None = None  #: what `pack` made of this state, if it is kept


@dataclass
class JobBundle:
    """A checked bundle. The caller may change `manifest`; it is checked again before submission."""

    manifest: Manifest
    path: Path | None = None  #: the bundle's folder; None for a manifest that is not in a folder
    manifest_path: Path | None = None
    payloads_path: Path | None = None  #: None if the bundle has no payloads folder
    warnings: tuple[Issue, ...] = ()
    _origin: Origin = field(default_factory=Origin, repr=False, compare=False)


BundleInput = str | os.PathLike[str] | Mapping[str, Any] | Manifest | JobBundle
Payloads = str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class _Place:
    """The paths of a bundle. A manifest given as a mapping has only the payloads, or none."""

    path: Path | None = None
    manifest_path: Path | None = None
    payloads_path: Path | None = None


def validate_manifest(input: BundleInput, *, payloads: Payloads = None) -> JobBundle:
    """Read and check a bundle folder, a manifest, or a loaded bundle.

    *payloads* is the payloads folder of a manifest that is given as a mapping. Returns the same object for a loaded
    bundle that was not changed. Writes nothing. Raises ManifestError, and TypeError for *payloads* with another input.
    """
    return load(input, payloads=payloads)


def load(input: BundleInput, allow_unsandboxed: bool | None = None, *, payloads: Payloads = None) -> JobBundle:
    """As `validate_manifest`; *allow_unsandboxed* is the setting of that name, by default read from the environment."""
    allowed = unsandboxed_allowed(os.environ) if allow_unsandboxed is None else allow_unsandboxed
    if payloads is not None and not isinstance(payloads, str | os.PathLike):
        raise TypeError(f"payloads must be the path of a folder, not {_type_name(payloads)}")
    with first_use("load"):  # pydantic_core has a lock of its own for the first schema
        return _load(input, allowed, payloads)


def _load(input: BundleInput, allowed: bool, payloads: Payloads) -> JobBundle:
    if isinstance(input, Mapping | Manifest):
        folder = None if payloads is None else Path(os.fsdecode(payloads)).absolute()
        return _checked(plain(input), _Place(payloads_path=folder), allowed)
    if payloads is not None:
        raise TypeError("payloads requires a manifest that is given as a mapping")
    if isinstance(input, JobBundle):
        return _load_again(input, allowed)
    if isinstance(input, str | os.PathLike):
        return _load_folder(Path(os.fsdecode(input)), allowed)
    raise problem(f"a bundle must be the path of a folder, a mapping or a JobBundle, not {_type_name(input)}")


def pack(bundle: JobBundle, max_bundle_bytes: int) -> PackedBundle:
    """Pack a checked bundle; the same manifest and files give the same bytes.

    Raises PayloadTooLarge, and ManifestError if the payloads were removed or cannot be read.
    """
    raw = {key: value for key, value in as_dict(bundle.manifest).items() if key not in fingerprint.OF_THE_JOB}
    text = encoded(raw)
    payloads = None
    if bundle.payloads_path is not None:
        try:
            payloads = archive.pack_folder(bundle.payloads_path, max_bundle_bytes)
        except PayloadTooLarge:
            raise
        except (OSError, ValueError) as error:
            raise problem(f"cannot be packed: {error}", PAYLOADS) from error
    size = len(text) + len(payloads or b"")
    if size > max_bundle_bytes:
        raise archive.too_large("the bundle", size, max_bundle_bytes)
    payloads_digest = None if payloads is None else hashlib.sha256(payloads).hexdigest()
    return PackedBundle(text, payloads, payloads_digest, bundle_digest(text, payloads_digest))


def bundle_digest(manifest_json: bytes, payloads_digest: str | None) -> str:
    """The digest of a bundle: the SHA-256 of its manifest and of the digest of its payloads."""
    return hashlib.sha256(manifest_json + b"\n" + (payloads_digest or "").encode()).hexdigest()


def _load_folder(path: Path, allow_unsandboxed: bool) -> JobBundle:
    path = path.absolute()
    manifest_path = path / MANIFEST_FILE
    # `os.path` returns False for a path that is too long or not accessible; methods of `Path` raise.
    if os.path.isfile(path):
        hint = f"pass its folder, {path.parent}" if path.name == MANIFEST_FILE else "a bundle is a folder"
        raise problem(f"{path} is a file", hint=hint)
    if not os.path.isdir(path):
        raise problem(f"folder {path} does not exist")
    if not os.path.isfile(manifest_path):
        raise problem(f"folder {path} has no {MANIFEST_FILE}")
    try:
        with manifest_path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
        if len(text) > MAX_MANIFEST_BYTES:
            hint = "data belongs into `payloads/` or into the inputs"
            raise problem(f"{manifest_path} has more than {MAX_MANIFEST_BYTES} bytes", hint=hint)
        text = text.removeprefix(codecs.BOM_UTF8)
        raw = decode(text)
    except OSError as error:
        raise problem(f"{manifest_path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise problem(f"{manifest_path} is not valid JSON: {error}") from None
    payloads = path / PAYLOADS
    twice = [Issue(key, "duplicate key", "keep one of them") for key in duplicate_keys(text)]
    place = _Place(path, manifest_path, payloads if os.path.lexists(payloads) else None)
    return _checked(raw, place, allow_unsandboxed, twice)


def _load_again(bundle: JobBundle, allow_unsandboxed: bool) -> JobBundle:
    origin, manifest = bundle._origin, bundle.manifest
    if not isinstance(manifest, Manifest | Mapping):
        raise problem(f"bundle.manifest must be a Manifest or a mapping, not {_type_name(manifest)}")
    same_graph = graph_unchanged(bundle, allow_unsandboxed)
    unchanged = same_graph and fingerprint.of_job_values(bundle.manifest) == origin.job_values
    if unchanged and files_unchanged(bundle):
        return bundle
    raw = plain(manifest)
    if isinstance(manifest, Manifest):
        _unfill(raw, origin.filled)
    payloads = None if bundle.payloads_path is None else Path(bundle.payloads_path)
    place = _Place(bundle.path, bundle.manifest_path, payloads)
    checked = _checked(raw, place, allow_unsandboxed)
    if same_graph:
        bundle._origin = replace(origin, files=checked._origin.files, packed=None)
    return bundle if unchanged else checked


def graph_unchanged(bundle: JobBundle, allow_unsandboxed: bool) -> bool:
    """True if the manifest of *bundle* was not changed since it was checked. Inputs and metadata do not count."""
    origin = bundle._origin
    if origin.graph is None or not isinstance(bundle.manifest, Manifest):
        return False
    if origin.payloads_path != bundle.payloads_path or origin.allow_unsandboxed != allow_unsandboxed:
        return False
    return fingerprint.of_graph(bundle.manifest) == origin.graph


def files_unchanged(bundle: JobBundle) -> bool:
    """True if the payloads of *bundle* are certainly those that were checked."""
    known = bundle._origin.files
    return bundle.payloads_path is None or (known is not None and fingerprint.of_files(bundle.payloads_path) == known)


def _unfill(raw: dict[str, Any], filled: Mapping[str, Any]) -> None:
    """Remove unchanged defaults that validation filled in: they may depend on a key that the caller has changed."""
    for key, value in filled.items():
        if raw.get(key) == value:
            del raw[key]
        elif isinstance(value, Mapping) and isinstance(raw.get(key), dict):
            _unfill(raw[key], value)


def _checked(raw: Any, place: _Place, allow_unsandboxed: bool, issues: Iterable[Issue] = ()) -> JobBundle:
    """Check manifest and payloads; raise ManifestError with the issues of both and the given *issues*."""
    payloads = place.payloads_path
    files = fingerprint.of_files(payloads)  # before they are read: what changes meanwhile is checked again
    issues = [*issues, *(_payload_issues(payloads) if payloads else [])]
    usable = payloads if payloads and payloads.is_dir() else None
    sources = Sources(usable) if place.path else Sources(usable, _NO_FOLDER)
    try:
        checked = check(raw, sources, allow_unsandboxed)
    except ManifestError as error:
        raise ManifestError([*with_subjects(error.issues, raw), *issues]) from None
    if issues:
        raise ManifestError(issues)
    manifest = checked.manifest
    encoded(manifest)  # raises for what JSON cannot hold, such as NaN
    graph, job_values = fingerprint.of_graph(manifest), fingerprint.of_job_values(manifest)
    origin = Origin(graph, job_values, files, allow_unsandboxed, payloads, checked.filled)
    found = tuple(with_subjects([*checked.warnings, *warnings(manifest)], raw))
    return JobBundle(manifest, place.path, place.manifest_path, payloads, found, origin)


def _payload_issues(payloads: Path) -> list[Issue]:
    """The files that cannot be packed."""
    if not payloads.is_dir():
        missing = "" if os.path.lexists(payloads) else f"; {payloads} does not exist"
        return [Issue(PAYLOADS, f"must be a folder{missing}")]
    try:
        return [
            Issue(f"{PAYLOADS}/{entry.name}", entry.problem, "remove it, or replace it with a copy")
            for entry in archive.entries(payloads)
            if entry.problem
        ]
    except OSError as error:
        return [Issue(PAYLOADS, f"cannot be read: {error}")]


def plain(value: Mapping[str, Any] | Manifest) -> dict[str, Any]:
    """A manifest as plain JSON values that share nothing with the caller's objects.

    Raises ManifestError for values that JSON cannot hold exactly.
    """
    given = value if isinstance(value, Manifest) else dict(value)
    issues = _inexact(given)
    if issues:
        raise ManifestError(issues)
    try:
        plain: dict[str, Any] = decode(encode(given))
    except (ValueError, TypeError, RecursionError) as error:
        raise problem(f"the manifest is not valid JSON: {error}", hint=_JSON_HINT) from None
    return plain


def encoded(manifest: Manifest | Mapping[str, Any]) -> bytes:
    """*manifest* as JSON. Raises ManifestError.

    It is encoded one level deep, because the store keeps it inside another JSON document.
    """
    try:
        return encode([manifest])[1:-1]
    except (ValueError, TypeError, RecursionError) as error:
        if issues := _inexact(manifest):
            raise ManifestError(issues) from None
        raise problem(f"the manifest is not valid JSON: {error}", hint=_JSON_HINT) from None


def _inexact(manifest: Mapping[str, Any] | Manifest) -> list[Issue]:
    return with_subjects([Issue(path, problem) for path, problem in inexact_values(manifest)], manifest)


def problem(message: str, path: str = "", hint: str = "") -> ManifestError:
    return ManifestError([Issue(path, message, hint)])


def _type_name(value: object) -> str:
    return kind(value) if value is None or isinstance(value, bool | int | float | list) else type(value).__name__
