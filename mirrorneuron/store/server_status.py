"""What the store's server says about itself, for a checkup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from redis.exceptions import ResponseError

from mirrorneuron.store.connection import RedisClient, Refused
from mirrorneuron.store.keys import Keys

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

    def refusal(self) -> str:
        """Return the error with which the server refuses writes of scripts; "" if it accepts them."""
        try:
            self._client.eval(WRITE, 1, self._keys.swept)
        except (Refused, ResponseError) as error:
            return str(error)
        return ""
