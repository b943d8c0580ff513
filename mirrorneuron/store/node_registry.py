"""Registry of workers: each worker renews its registration with every heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from mirrorneuron.job import NodeInfo, iso
from mirrorneuron.message import encode
from mirrorneuron.pools import queue
from mirrorneuron.store import records
from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.keys import Keys

FORGOTTEN_S: Final = 3_600  # without a heartbeat, after which a worker is removed from the index


class Registry:
    """The registrations of one namespace. *now_ms* returns the server's time.

    *queues_here*: the queues are on this server, and are counted.
    """

    def __init__(self, client: RedisClient, keys: Keys, now_ms: Callable[[], int], *, queues_here: bool) -> None:
        self._client = client
        self._keys = keys
        self._now_ms = now_ms
        self._queues_here = queues_here
        self._forget_at = 0.0

    def nodes(self) -> list[NodeInfo]:
        """Return the registered workers in order of their names, with the queue length of each of their pools.

        The length is None if the broker is another server than the store. Skips a registration that cannot be read.
        """
        names = sorted(name.decode("utf-8", "replace") for name in self._client.zrange(self._keys.nodes, 0, -1))
        rows = self._client.mget([self._keys.node(name) for name in names]) if names else []
        found = list(records.readable(records.node, [pair for pair in zip(names, rows, strict=True) if pair[1]]))
        pools = sorted({pool for node in found for pool in node["pools"]})
        pipe = self._client.pipeline(transaction=False)
        for pool in pools:
            pipe.llen(queue(self._keys.ns, pool))
        waiting = dict(zip(pools, pipe.execute() if self._queues_here else [None] * len(pools), strict=True))
        for node in found:
            for pool, info in node["pools"].items():
                info["queued"] = waiting[pool]
        return found

    def queue_length(self, queue: str) -> int:
        """Return the number of tasks in *queue*, which must be on this server."""
        return int(self._client.llen(queue))

    def register(self, node: dict[str, Any], seconds: int) -> None:
        """Write a worker's registration, which expires after *seconds*. Its times are the server's."""
        now = self._now_ms()
        node.setdefault("started_at", iso(now))
        pipe = self._client.pipeline(transaction=False)
        pipe.zadd(self._keys.nodes, {node["name"]: now})
        pipe.set(self._keys.node(node["name"]), encode({**node, "last_heartbeat_at": iso(now)}), ex=seconds)
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGOTTEN_S / 10
            pipe.zremrangebyscore(self._keys.nodes, "-inf", now - 1000 * FORGOTTEN_S)
        pipe.execute()

    def hold_name(self, name: str, holder: str, seconds: int) -> str:
        """Let the process *holder* have the worker name *name* for *seconds*, unless another process has it.

        Returns the process that has it.
        """
        key = self._keys.holder(name)
        found = self._client.get(key)
        if found is None and not self._client.set(key, holder, nx=True, ex=seconds):
            found = self._client.get(key)
        if found == holder.encode():
            self._client.expire(key, seconds)
        return holder if found is None else str(found, "utf-8", "replace")

    def release_name(self, name: str, holder: str) -> bool:
        """Give up *name* if the process *holder* has it. Returns False if another process has it."""
        found = self._client.get(self._keys.holder(name))
        if found == holder.encode():
            self._client.delete(self._keys.holder(name))
        return found in (None, holder.encode())

    def unregister(self, name: str) -> None:
        """Remove a worker's registration."""
        self._client.delete(self._keys.node(name))
        self._client.zrem(self._keys.nodes, name)
