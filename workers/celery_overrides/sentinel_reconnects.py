"""The broker's connections ask the sentinels for the primary each time they connect."""

from __future__ import annotations

from kombu.transport.redis import SentinelChannel

from mirrorneuron.store.connection import SentinelConnection


def ask_sentinels_again() -> None:
    """Use `SentinelConnection` in kombu's Sentinel transport, for this process."""
    SentinelChannel.connection_class = SentinelConnection
