"""The sweeper's lease, which one worker of a namespace holds, and the time of the last sweep."""

from __future__ import annotations

from collections.abc import Callable

from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.keys import Keys


class SweepLease:
    """The lease of one namespace. *now_ms* returns the server's time."""

    def __init__(self, client: RedisClient, keys: Keys, now_ms: Callable[[], int]) -> None:
        self._client = client
        self._keys = keys
        self._now_ms = now_ms

    def take(self, token: str, lease_ms: int) -> bool:
        """Take or renew the lease under *token*. Returns False while another token holds it."""
        key = self._keys.sweeper
        if self._client.set(key, token, nx=True, px=lease_ms):
            return True
        if self._client.get(key) != token.encode():
            return False
        return bool(self._client.pexpire(key, lease_ms))

    def release(self, token: str) -> None:
        """Delete the lease if *token* holds it."""
        if self._client.get(self._keys.sweeper) == token.encode():
            self._client.delete(self._keys.sweeper)

    def mark_sweep(self) -> tuple[int, int]:
        """Record that a sweep begins. Returns the server's time and the time since the last sweep began, both in ms;
        the second is 0 if there was no sweep before.
        """
        now = self._now_ms()
        before = self._client.set(self._keys.swept, now, get=True)
        return now, now - int(before) if before else 0

    def last_sweep_ms(self) -> int | None:
        """Return when the last sweep began (server time, ms); None if there was none."""
        swept = self._client.get(self._keys.swept)
        return int(swept) if swept else None
