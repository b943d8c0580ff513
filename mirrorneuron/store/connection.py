"""How to reach the job store: one place that turns a URL into a client, and its failures into ours."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import EqualJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.text import without_password

# redis-py types each reply for both protocols and both decodings at once. Ours are bytes; the typed methods of
# `scripts`, `store` and `bundle_store` are the contract.
RedisClient: TypeAlias = Any

CONNECT_TIMEOUT_S = 3.0
SENTINEL = "sentinel://"
SENTINEL_PORT = 26379
COMMAND_TIMEOUT_S = 5.0  # of a producer: nothing that it asks for takes a server a second
NODE_TIMEOUT_S = 20.0  # of a node: more than the largest commit takes, so that only a dead server runs into it
AWAY_S: Final = 60.0  # how long a waiter rides out a store that does not answer
RETRY_S: Final = 0.5
IDLE_SUBSCRIPTIONS = 8  # connections that wait to be used again
AWAY = (RedisConnectionError, RedisTimeoutError, ConnectionError)

# What a server says that has no memory or disk left, was made a replica, has lost its own, or runs somebody's script.
_REFUSALS: Final = (OutOfMemoryError, ReadOnlyError, MasterDownError)
_REFUSAL: Final = re.compile(r"(^|caused error: )(MISCONF|NOREPLICAS|UNBLOCKED|BUSY) ")

T = TypeVar("T")


class Refused(RedisConnectionError):
    """The server answers and does not do what it is asked. Like an absence it passes, so it is ridden out like one."""


class _Refusals:
    """Raises a refusal within its block as Refused. It holds nothing: one serves all."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if _refuses(error):
            raise Refused(str(error)) from error


_as_absence: Final = _Refusals()


class _Retry(Retry):
    """Tries a refusal again as well, on a new connection: behind the server's name there may be another one by then."""

    def call_with_retry(self, do: Callable[[], T], *args: Any, **options: Any) -> T:
        def asked() -> T:
            with _as_absence:
                return do()

        return super().call_with_retry(asked, *args, **options)


class _AsyncRetry(AsyncRetry):
    """The same for asyncio."""

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *args: Any, **options: Any) -> T:
        async def asked() -> T:
            with _as_absence:
                return await do()

        return await super().call_with_retry(asked, *args, **options)


def answers(replies: list[Any]) -> list[Any]:
    """The replies to commands that may fail one by one. Raises Refused where a server that refuses gave one of them."""
    for reply in replies:
        if _refuses(reply):
            raise Refused(str(reply)) from reply
    return replies


def _refuses(reply: object) -> bool:
    return isinstance(reply, _REFUSALS) or (isinstance(reply, ResponseError) and bool(_REFUSAL.search(str(reply))))


def connect(url: str, *, retries: int = 1, timeout_s: float | None = None) -> RedisClient:
    """A client for *url* (redis, rediss, unix, or `sentinel://host:port,host:port/service/db`).

    It connects on first use. A server silent for *timeout_s* (5 s) counts as away, as does one that refuses; *retries*
    bounds how long a call rides that out, at most a second between two tries. (Connecting is tried that often within
    each try.)
    """
    options = _options(url, _Retry(EqualJitterBackoff(cap=1.0, base=0.05), retries), timeout_s or COMMAND_TIMEOUT_S)
    if url.startswith(SENTINEL):
        hosts, service, more = sentinel_of(url)
        return Sentinel(hosts).master_for(service, **more, **options)  # type: ignore[no-untyped-call]
    return Redis.from_url(url, **options)


def connect_async(url: str, *, retries: int = 1) -> RedisClient:
    """The same for asyncio."""
    options = _options(url, _AsyncRetry(EqualJitterBackoff(cap=1.0, base=0.05), retries), COMMAND_TIMEOUT_S)
    if url.startswith(SENTINEL):
        hosts, service, more = sentinel_of(url)
        return AsyncSentinel(hosts).master_for(service, **more, **options)  # type: ignore[no-untyped-call]
    return AsyncRedis.from_url(url, **options)


def _options(url: str, retry: Any, timeout_s: float) -> dict[str, Any]:
    options = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": timeout_s,
        "retry": retry,
        "retry_on_error": list(AWAY),
        "health_check_interval": 30,
    }
    if url.startswith("unix://"):
        options.pop("socket_connect_timeout")
    return options


def sentinel_of(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """The sentinels of a `sentinel://` URL, the name of their service, and what its server is told (`db`, ...)."""
    parts = urlsplit(url)
    hosts = [host.partition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
    service, _, db = parts.path.strip("/").partition("/")
    more = {
        "db": int(db or 0),
        "username": unquote(parts.username or "") or None,
        "password": unquote(parts.password or "") or None,
    }
    return [(name, int(port or SENTINEL_PORT)) for name, _, port in hosts], service or "mymaster", more


def handed_on(push: Any) -> Any:
    """What a subscription does with a push. Without a handler redis-py gives the process a logger that prints."""
    return push


async def handed_on_async(push: Any) -> Any:
    return push


class Subscriptions:
    """Subscriptions to single channels of one server. Thread-safe.

    Their connections are used again, one after the other: making one costs as much as a short job.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._idle: deque[Any] = deque(maxlen=IDLE_SUBSCRIPTIONS)

    @contextmanager
    def to(self, channel: str) -> Iterator[Callable[[float], None]]:
        """Listen to *channel* within the block, which gets a function that waits, so many seconds at most.

        It returns first when the server has confirmed the subscription, then with each message. Raises redis errors.
        """
        try:
            pubsub = self._idle.pop()
        except IndexError:
            pubsub = self._client.pubsub(push_handler_func=handed_on)

        def wait_for_message(seconds: float) -> None:
            due = time.monotonic() + seconds
            while found := pubsub.get_message(timeout=max(0.0, due - time.monotonic())):
                if found["channel"] == channel.encode():  # else the farewell of a channel before
                    return

        try:
            pubsub.subscribe(channel)
            yield wait_for_message
            pubsub.unsubscribe(channel)
        except BaseException:
            pubsub.close()
            raise
        self._idle.append(pubsub)


class EndsSubscription:
    """A subscription to the channel of jobs that ended while an agent of theirs was claimed. For one thread."""

    def __init__(self, client: RedisClient, channel: str) -> None:
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._channel = channel

    def __enter__(self) -> EndsSubscription:
        return self

    def __exit__(self, *_error: object) -> None:
        self.reset()

    @property
    def subscribed(self) -> bool:
        return bool(self._pubsub.subscribed)

    def subscribe(self) -> None:
        """Connect and subscribe. Raises redis errors."""
        self._pubsub.subscribe(self._channel)

    def wait(self, seconds: float) -> bool:
        """Wait up to *seconds* and return True if a job has ended. Raises redis errors."""
        return bool(self._pubsub.get_message(timeout=seconds))

    def reset(self) -> None:
        """Close the connection. `subscribe` may be called again."""
        self._pubsub.reset()


@contextmanager
def reaching(url: str, job_id: str | None = None) -> Iterator[None]:
    """Turn a server that does not answer into RuntimeUnavailable, which says which server and what to do."""
    try:
        yield
    except (RedisError, ConnectionError) as error:
        if isinstance(error, AWAY) and not isinstance(error, Refused):
            said = f"does not answer ({error}); start it, or set MIRROR_NEURON_REDIS_URL"
        else:
            said = f"refused: {error}"
        raise RuntimeUnavailable(f"the job store at {without_password(url)} {said}", job_id) from error


def now_ms(client: RedisClient) -> int:
    """The server's time in milliseconds since the epoch."""
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000
