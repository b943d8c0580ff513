"""Bundles in Redis: manifests and payload archives, each stored once under its digest."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from redis.exceptions import NoPermissionError, ResponseError

from mirrorneuron.bundle.load import PackedBundle, bundle_digest
from mirrorneuron.bundle.manifest import Manifest
from mirrorneuron.errors import BundleNotFound, ManifestError, RecordDamaged
from mirrorneuron.message import decode, encode
from mirrorneuron.store import records
from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.keys import Keys

CHUNK_BYTES: Final = 1024 * 1024
UPLOAD_SECONDS: Final = 600  # time to live of an incomplete upload
SPARE_SECONDS: Final = 86_400  # for which a bundle is kept after the retention of its jobs
FOR_EVER_SECONDS: Final = 10**9  # if jobs are kept for ever; the reply to EXPIRE also says if the key exists
FREED_SECONDS: Final = 600  # for which a bundle without jobs is kept, for a submission that has just seen it

_DOCUMENT: Final = b'{"manifest":%b,"payloads":%b}'
_STORED: Final = re.compile(rb'\{"manifest":(.*),"payloads":(?:null|"([0-9a-f]{64})")\}', re.DOTALL)


class BundleStore:
    """Content-addressed: a bundle is written once, and a digest is never overwritten with other bytes."""

    def __init__(self, client: RedisClient, keys: Keys, retention_seconds: int, max_bytes: int) -> None:
        self._client = client
        self._keys = keys
        self._max_bytes = max_bytes  #: of a manifest and of an archive that are read
        self._ttl_s = retention_seconds + SPARE_SECONDS if retention_seconds else FOR_EVER_SECONDS

    def renewals(self, digest: str, payloads_digest: str | None) -> list[tuple[str | int, ...]]:
        """Return the commands that renew a bundle's time to live. A reply of 0 means that a part is missing."""
        names = [self._keys.manifest(digest)]
        if payloads_digest:
            names.append(self._keys.bundle(payloads_digest))
        return [("EXPIRE", name, self._ttl_s) for name in names]

    def renew(self, digests: Iterable[str]) -> None:
        """Renew the time to live of the bundles of live jobs. Skips missing bundles."""
        for digest in digests:
            with suppress(BundleNotFound, ResponseError):  # ResponseError: a key of another type
                _, payloads_digest = self.manifest(digest)
                for command in self.renewals(digest, payloads_digest):
                    self._client.execute_command(*command)

    def free(self, digests: Iterable[str], kept: Iterable[str]) -> None:
        """Let bundles without jobs expire soon. Payloads that a bundle of *kept* shares are kept."""
        freed = {digest: self._payloads_of(digest) for digest in digests}
        needed = {self._payloads_of(digest) for digest in kept} if any(freed.values()) else set()
        for digest, payloads_digest in freed.items():
            self._client.expire(self._keys.manifest(digest), FREED_SECONDS)
            if payloads_digest and payloads_digest not in needed:
                self._client.expire(self._keys.bundle(payloads_digest), FREED_SECONDS)

    def _payloads_of(self, digest: str) -> str | None:
        with suppress(BundleNotFound, ResponseError):
            return self.manifest(digest)[1]
        return None

    def keys_of(self, bundle: PackedBundle) -> tuple[str, str]:
        """Return the key of the manifest, and that of the payloads, or of the manifest again if there are none."""
        manifest = self._keys.manifest(bundle.digest)
        return manifest, self._keys.bundle(bundle.payloads_digest) if bundle.payloads_digest else manifest

    def has(self, bundle: PackedBundle) -> bool:
        """Renew the bundle's time to live. Returns False if a part is missing."""
        pipe = self._client.pipeline(transaction=False)
        pipe.exists(self._keys.manifest(bundle.digest))
        if bundle.payloads_digest:
            pipe.exists(self._keys.bundle(bundle.payloads_digest))
        there = len(pipe.command_stack)
        for command in self.renewals(bundle.digest, bundle.payloads_digest):
            pipe.execute_command(*command)
        return all(pipe.execute()[:there])

    def put(self, bundle: PackedBundle) -> None:
        """Store the missing parts of a bundle. Idempotent; readers never see an incomplete bundle."""
        if bundle.payloads is not None and bundle.payloads_digest:
            self._put_payloads(bundle.payloads_digest, bundle.payloads)
        document = _DOCUMENT % (bundle.manifest_json, encode(bundle.payloads_digest))
        self._client.set(self._keys.manifest(bundle.digest), document, ex=self._ttl_s)

    def _put_payloads(self, payloads_digest: str, archive: bytes) -> None:
        key = self._keys.bundle(payloads_digest)
        if self._client.exists(key):
            return
        draft = self._keys.draft(payloads_digest, secrets.token_hex(6))
        for number, at in enumerate(range(0, max(len(archive), 1), CHUNK_BYTES)):
            pipe = self._client.pipeline(transaction=True)  # no crash may leave a draft without a time to live
            pipe.hset(draft, number, archive[at : at + CHUNK_BYTES])  # numbered, so that a retry does not add it twice
            pipe.expire(draft, UPLOAD_SECONDS)
            pipe.execute()
        try:
            self._client.rename(draft, key)
        except ResponseError:  # a retry after a lost reply: the draft has been renamed already
            if not self._client.exists(key):
                raise
        self._client.expire(key, self._ttl_s)

    def manifest(self, digest: str) -> tuple[Manifest, str | None]:
        """Return the manifest and the digest of its payloads.

        Raises BundleNotFound if it is missing, too large, or not what was stored under its digest.
        """
        key = self._keys.manifest(digest)
        most = self._max_bytes + len(_DOCUMENT) + len(digest)
        try:
            document = self._client.getrange(key, 0, most)
        except NoPermissionError:  # a user with fewer rights
            document = self._client.get(key) or b""
        if not document and not self._client.exists(key):
            raise BundleNotFound(f"bundle {digest!r} is not in the store")
        if len(document) > most:
            raise self._too_large(f"the manifest of bundle {digest!r}")
        try:
            with records.reading(f"bundle {digest!r}"):
                parts = decode(document)
                manifest, payloads = Manifest.from_dict(parts["manifest"]), parts["payloads"]
        except RecordDamaged as error:  # its jobs fail like those of a missing bundle
            raise BundleNotFound(str(error)) from error
        except ManifestError as error:
            raise BundleNotFound(f"bundle {digest!r} cannot be read: {error.issues[0]}") from error
        if _digest_of(document) != digest:
            raise BundleNotFound(f"bundle {digest!r} cannot be read: it is not what was stored under this digest")
        return manifest, payloads

    def payloads(self, payloads_digest: str) -> bytes:
        """Return the payload archive.

        Raises BundleNotFound if a chunk is missing, or if it is too large or has another digest.
        """
        key = self._keys.bundle(payloads_digest)
        count = self._client.hlen(key)
        if count > self._max_bytes // CHUNK_BYTES + 1:
            raise self._too_large(f"the archive of payloads {payloads_digest!r}")
        with suppress(NoPermissionError):  # a user with fewer rights
            sizes = [self._client.hstrlen(key, str(number)) for number in range(count)]
            if sum(sizes) > self._max_bytes:
                raise self._too_large(f"the archive of payloads {payloads_digest!r}")
        chunks = [self._client.hget(key, number) for number in range(count)]
        if not chunks or None in chunks:
            raise BundleNotFound(f"payloads {payloads_digest!r} are not in the store")
        archive = b"".join(chunks)
        if (found := hashlib.sha256(archive).hexdigest()) != payloads_digest:
            raise BundleNotFound(f"the payloads {payloads_digest} are damaged: their SHA-256 is {found}")
        return archive

    def _too_large(self, what: str) -> BundleNotFound:
        limit = f"MIRROR_NEURON_MAX_BUNDLE_BYTES ({self._max_bytes} bytes)"
        return BundleNotFound(f"{what} exceeds {limit} here; raise the limit, or submit a smaller bundle")


def _digest_of(document: bytes) -> str:
    """The digest of the bundle of which *document* is the stored manifest; "" if it cannot be one."""
    found = _STORED.fullmatch(document)
    return bundle_digest(found[1], (found[2] or b"").decode()) if found else ""
