"""kombu's connection to a Redis broker, which knows one option more: the protocol of the server.

redis-py speaks RESP3 by itself, and some servers and proxies do not. kombu passes no such option on (kombu 5.7,
`transport/redis.py`, `Channel._connparams`).
"""

from __future__ import annotations

from typing import Any, Final

from celery.app.amqp import AMQP
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.transport import redis


class _Protocol(redis.Channel):
    protocol: int | None = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = super()._connparams(asynchronous)
        return {**found, "protocol": self.protocol} if self.protocol else found


class _Channel(_Protocol):
    from_transport_options = (*redis.Channel.from_transport_options, "protocol")


class _SentinelChannel(_Protocol, redis.SentinelChannel):
    from_transport_options = (*redis.SentinelChannel.from_transport_options, "protocol")


class _Transport(redis.Transport):
    Channel = _Channel


class _SentinelTransport(redis.SentinelTransport):
    Channel = _SentinelChannel


_TRANSPORTS: Final = {"redis": _Transport, "rediss": _Transport, "sentinel": _SentinelTransport}


class _OurTransports:
    transport_cls: Any

    def get_transport_cls(self) -> Any:
        return _TRANSPORTS.get(self.transport_cls) or super().get_transport_cls()  # type: ignore[misc]


class _PooledConnection(_OurTransports, PooledConnection):
    pass


class _Pool(ConnectionPool):
    def new(self) -> _PooledConnection:
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))


class _Connection(_OurTransports, Connection):
    def Pool(self, limit: int | None = None, **options: Any) -> _Pool:
        return _Pool(self, limit, **options)


class Amqp(AMQP):
    """What a Celery app makes its connections with."""

    Connection = _Connection
