"""Audit of all keys of a namespace: reads them and their times to live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.keys import Keys
from mirrorneuron.store.status_index import PAGE


class KeyAudit:
    """For the crash test and tests: SCAN reads every key of the server. No node, producer or dashboard needs it."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def names(self) -> Iterator[str]:
        """Yield every key of the namespace."""
        for raw in self._client.scan_iter(f"{self._keys.ns}:*", count=1000):
            yield raw.decode()

    def times_to_live(self, names: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Yield each name with its time to live in seconds; -1 if it has none. One round trip for each page."""
        for at in range(0, len(names), PAGE):
            page = names[at : at + PAGE]
            pipe = self._client.pipeline(transaction=False)
            for name in page:
                pipe.ttl(name)
            yield from zip(page, pipe.execute(), strict=True)
