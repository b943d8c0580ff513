"""The sweeper's lease, which one worker of a namespace holds, and the time of the last sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.keys import Keys


class Turn(NamedTuple):
    """The reply to an attempt to take the lease."""

    held: bool
    now_ms: int  #: the server's time
    swept_ms: int | None  #: the server's time at the last mark of a sweep, by any worker; None if there was none


class SweepLease:
    """The lease of one namespace. *clock* (ms) replaces the server's time in tests."""

    def __init__(self, client: RedisClient, keys: Keys, clock: Callable[[], int] | None = None) -> None:
        self._client = client
        self._keys = keys
        self._clock = clock

    def take(self, token: str, lease_ms: int) -> Turn:
        """Take or renew the lease under *token*, unless another token holds it, and mark that a sweep goes on.

        The time is read in the same round trip, so that it does not include the delay of an earlier one.
        """
        key = self._keys.sweeper
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.get(key)
        pipe.get(self._keys.swept)
        (seconds, micros), holder, swept = pipe.execute()
        now_ms = self._clock() if self._clock else int(seconds) * 1000 + int(micros) // 1000
        held = holder == token.encode()
        if held:
            pipe.pexpire(key, lease_ms)
            pipe.set(self._keys.swept, now_ms)
            pipe.execute()
        elif holder is not None and self._client.pttl(key) > lease_ms:  # the server's clock was set back
            self._client.pexpire(key, lease_ms)
        elif holder is None and self._client.set(key, token, nx=True, px=lease_ms):
            held = True
            self._client.set(self._keys.swept, now_ms)
        return Turn(held, now_ms, int(swept) if swept else None)

    def is_free(self) -> bool:
        """True if no worker holds the lease, or for too long. One command, and nothing is written."""
        left_ms: int = self._client.pttl(self._keys.sweeper)
        return left_ms < 0

    def release(self, token: str) -> None:
        """Delete the lease if *token* holds it."""
        if self._client.get(self._keys.sweeper) == token.encode():
            self._client.delete(self._keys.sweeper)

    def last_sweep_ms(self) -> int | None:
        """Return the time of the last mark of a sweep (server time, ms); None if there was none."""
        swept = self._client.get(self._keys.swept)
        return int(swept) if swept else None
