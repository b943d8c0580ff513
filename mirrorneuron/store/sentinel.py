"""Clients for the primary of a service that sentinels watch."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelManagedConnection as AsyncSentinelManagedConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection as AsyncSentinelManagedTLSConnection
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from mirrorneuron.server_url import Sentinels

RedisClient: TypeAlias = Any  # as in `connection`

SENTINEL_TIMEOUT_S: Final = 1.0  # then the next sentinel is asked


class _AsksSentinels:
    """Asks the sentinels for the primary each time it connects.

    redis-py does so for the first command after a lost connection, but a retry of a command connects to the address
    that the connection had: a frozen primary would be tried until the last retry. Source: redis 8.1 `connection.py`,
    `send_packed_command`.
    """

    def send_packed_command(self: Any, command: Any, check_health: bool = True) -> None:
        if not self._sock:
            self.connect()
        super().send_packed_command(command, check_health)  # type: ignore[misc]


class SentinelConnection(_AsksSentinels, SentinelManagedConnection):
    pass


class SentinelTLSConnection(_AsksSentinels, SentinelManagedSSLConnection):
    pass


class _AsksSentinelsAsync:
    """`_AsksSentinels` for asyncio."""

    async def send_packed_command(self: Any, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(command, check_health)  # type: ignore[misc]


class AsyncSentinelConnection(_AsksSentinelsAsync, AsyncSentinelManagedConnection):
    pass


class AsyncSentinelTLSConnection(_AsksSentinelsAsync, AsyncSentinelManagedTLSConnection):
    pass


def primary_of(found: Sentinels, **options: Any) -> RedisClient:
    """Return a client for the server that is the primary of a service whenever it connects."""
    manager = _Sentinel(found.hosts, sentinel_kwargs=sentinel_options(found))  # type: ignore[no-untyped-call]
    options["connection_class"] = SentinelTLSConnection if found.tls else SentinelConnection
    return manager.master_for(found.service, **{**options, **_without_ssl(found.server)})  # type: ignore[no-untyped-call]


def async_primary_of(found: Sentinels, **options: Any) -> RedisClient:
    """`primary_of` for asyncio."""
    login = {**sentinel_options(found), "retry": AsyncRetry(NoBackoff(), 0)}
    manager: RedisClient = _AsyncSentinel(found.hosts, sentinel_kwargs=login)  # type: ignore[no-untyped-call]
    options["connection_class"] = AsyncSentinelTLSConnection if found.tls else AsyncSentinelConnection
    return manager.master_for(found.service, **{**options, **_without_ssl(found.server)})


def _without_ssl(server: dict[str, Any]) -> dict[str, Any]:
    """Options for a given class of connections, which says by itself if it uses TLS."""
    return {name: value for name, value in server.items() if name != "ssl"}


def sentinel_options(found: Sentinels) -> dict[str, Any]:
    """Options of the connections to the sentinels themselves. If one does not answer, the next one is asked."""
    return {
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        **found.sentinel,
    }


class _Sentinel(Sentinel):
    """Says in one line which sentinel answered what."""

    def discover_master(self, service_name: str) -> Any:
        problems: list[str] = []
        for sentinel in list(self.sentinels):
            try:
                masters: RedisClient = sentinel.sentinel_masters()
            except (RedisError, ConnectionError) as error:
                problems.append(_sentinel_problem(sentinel, error))
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                self.sentinels.remove(sentinel)
                self.sentinels.insert(0, sentinel)  # it is asked first next time
                return state["ip"], state["port"]
            problems.append(_no_primary(sentinel, service_name))
        raise MasterNotFoundError("; ".join(problems))


class _AsyncSentinel(AsyncSentinel):
    """`_Sentinel` for asyncio."""

    async def discover_master(self, service_name: str) -> Any:
        problems: list[str] = []
        for sentinel in list(self.sentinels):
            try:
                masters: RedisClient = await sentinel.sentinel_masters()
            except (RedisError, ConnectionError) as error:
                problems.append(_sentinel_problem(sentinel, error))
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                return state["ip"], state["port"]
            problems.append(_no_primary(sentinel, service_name))
        raise MasterNotFoundError("; ".join(problems))


def _address(sentinel: RedisClient) -> str:
    options = sentinel.connection_pool.connection_kwargs
    host = f"[{options['host']}]" if ":" in options["host"] else options["host"]
    return f"the sentinel at {host}:{options['port']}"


def _sentinel_problem(sentinel: RedisClient, error: BaseException) -> str:
    said = str(error)
    given = sentinel.connection_pool.connection_kwargs.get("password")
    if isinstance(error, AuthenticationError) and not given:
        return f"{_address(sentinel)} asks for a password (sentinel_password=)"
    if isinstance(error, AuthenticationError | NoPermissionError):
        return f"{_address(sentinel)} refuses its user or password ({said})"
    return f"{_address(sentinel)} does not answer ({said})"


def _no_primary(sentinel: RedisClient, service: str) -> str:
    return f"{_address(sentinel)} knows no primary of {service!r} that is up"
