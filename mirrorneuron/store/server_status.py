"""What the store's server says about itself, for a checkup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from mirrorneuron.store.connection import CLUSTER, RedisClient, Refused
from mirrorneuron.store.keys import Keys
from mirrorneuron.store.rights import Role, refusals

WRITE: Final = "return redis.call('SETRANGE', KEYS[1], 0, '')"  # changes nothing; a script, like each change of a job


class ServerStatus:
    """Each method is one round trip. A managed server or an ACL may forbid INFO and CONFIG."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def ping(self) -> None:
        """Connect. Raises redis errors."""
        self._client.ping()

    def info(self) -> Mapping[str, Any]:
        """Return the reply to INFO; empty if it is forbidden."""
        try:
            return dict(self._client.info())
        except ResponseError:
            return {}

    def saves(self) -> str | None:
        """Return the server's `save` setting, "" if it writes no snapshots; None if CONFIG is forbidden."""
        try:
            return str(self._client.config_get("save").get("save", ""))
        except ResponseError:
            return None

    @property
    def user(self) -> str:
        """The name of the user as which the client connects."""
        return str(self._client.connection_pool.connection_kwargs.get("username") or "default")

    def cluster_error(self) -> str:
        """Return the error with which a server in cluster mode refuses to read keys of two slots; "" for any other."""
        try:
            self._client.mget(self._keys.jobs, self._keys.nodes)
        except ResponseError as error:
            return str(error) if re.search(CLUSTER, str(error)) else ""
        return ""

    def refusals(self, role: Role, pools: Sequence[str], *, broker: bool) -> list[str]:
        """Return what the user may not do although *role* needs it, see `rights.refusals`."""
        return refusals(self._client, self._keys, role, pools, broker=broker)

    def refusal(self) -> str:
        """Return the error with which the server refuses writes of scripts; "" if it accepts them."""
        try:
            self._client.eval(WRITE, 1, self._keys.swept)
        except (Refused, ResponseError) as error:
            return str(error)
        return ""
