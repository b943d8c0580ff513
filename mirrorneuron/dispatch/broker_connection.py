"""kombu's connections to a Redis broker.

They know one option more, the protocol of the server, and ask the sentinels for the primary each time they connect.

redis-py speaks RESP3 by itself, and some servers and proxies do not. kombu passes no such option on (kombu 5.7,
`transport/redis.py`, `Channel._connparams`).
"""

from __future__ import annotations

from typing import Any, Final

from celery.app.amqp import AMQP, Queues
from kombu import Queue
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.transport import redis

from mirrorneuron.store.sentinel import SentinelConnection, SentinelTLSConnection


class _Protocol(redis.Channel):
    protocol: int | None = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = super()._connparams(asynchronous)
        return {**found, "protocol": self.protocol} if self.protocol else found


class _Channel(_Protocol):
    from_transport_options = (*redis.Channel.from_transport_options, "protocol")


class _SentinelChannel(_Protocol, redis.SentinelChannel):
    connection_class = SentinelConnection
    connection_class_ssl = SentinelTLSConnection
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


class _QueuesWithoutAcknowledgement(Queues):
    """Queues on Redis, those included that only `-Q` or the control command `add_consumer` names.

    A worker of ours acknowledges nothing (`celery_overrides.no_ack_request`): with a queue that expects it, the worker
    would take as many tasks as it has slots, and then no more.
    """

    def _add(self, queue: Queue) -> Queue:
        queue.no_ack = True
        return super()._add(queue)


class Amqp(AMQP):
    """What a Celery app makes its connections and queues with."""

    Connection = _Connection

    @property
    def queues_cls(self) -> type[Queues]:
        return _QueuesWithoutAcknowledgement if self.app.conf.mirrorneuron_lists else Queues
