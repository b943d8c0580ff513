"""Connections to the job store: clients for a URL, retries, subscriptions, and errors for an unreachable server."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import EqualJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    MasterDownError,
    MaxConnectionsError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.server_url import SENTINEL, sentinels_of
from mirrorneuron.store.sentinel import async_primary_of, primary_of
from mirrorneuron.text import without_password

# redis-py types each reply for both protocols and both decodings at once. Here replies are bytes, and the typed methods
# of this package are the contract.
RedisClient: TypeAlias = Any

CONNECT_TIMEOUT_S = 3.0
COMMAND_TIMEOUT_S = 5.0  # of a producer, whose commands take a server less than a second
NODE_TIMEOUT_S: Final = (4.0, 20.0)  # of a node: bounds; between them, less than the lease of a claim
MAX_OUTAGE_S: Final = 60.0  # for which a waiter retries while the store is unreachable
RETRY_S: Final = 0.5  # between two retries of a waiter
MAX_CONNECTIONS: Final = 100_000  # of one client, if its URL names no other number: redis-py's default is 100
MISSED_REPLIES: Final = 2  # to health checks of a subscription, each of which is a call later than the one before
UNREACHABLE = (RedisConnectionError, RedisTimeoutError, ConnectionError)

# Errors of a server that has no memory or disk left, became a replica, lost its replicas, or is busy with a script.
_REFUSALS: Final = (OutOfMemoryError, ReadOnlyError, MasterDownError)
_REFUSAL: Final = re.compile(r"(^|caused error: )(MISCONF|NOREPLICAS|UNBLOCKED|BUSY) ")

CLUSTER: Final = r"^(CROSSSLOT|MOVED|ASK|CLUSTERDOWN)\b|same slot|SELECT is not allowed in cluster"
ADVICE: Final = (  # for a command that a server refuses
    (CLUSTER, "cluster mode is not supported: use one server (cluster-enabled no), with Sentinel if you need failover"),
    ("unknown command.*HELLO", "the server speaks RESP2 only: add ?protocol=2 to MIRROR_NEURON_REDIS_URL"),
)

T = TypeVar("T")


class Refused(RedisConnectionError):
    """The server is reachable but refuses the command. Temporary; retried like a connection error."""


class TooManyCalls(RedisConnectionError):
    """A limit of this process is reached. The server has nothing to do with it."""


#: time.monotonic() seconds after which the current call is not retried; None: retried as often as the client says
gives_up_at: Final[ContextVar[float | None]] = ContextVar("gives_up_at", default=None)


class _Refusals:
    """Raises a refusal within its block as Refused. Stateless, so one instance serves all threads."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if _is_refusal(error):
            raise Refused(str(error)) from error


_raising_refusals: Final = _Refusals()


class _Retry(Retry):
    """Retries a refusal too, on a new connection: after a fail-over the host name may lead to another server.

    An exception that does not come from redis-py, such as one raised by a signal handler, closes the connection: the
    reply to the interrupted command may still arrive, and must not become the reply to the next command.
    """

    def call_with_retry(self, do: Callable[[], T], fail: Callable[..., Any], *args: Any, **options: Any) -> T:
        def attempt() -> T:
            at = gives_up_at.get()
            if at is not None and time.monotonic() > at:
                raise RedisTimeoutError("no answer within the time-out of the call")
            try:
                with _raising_refusals:
                    return do()
            except (ResponseError, *UNREACHABLE):  # the reply was read whole, or the caller closes the connection
                raise
            except BaseException as error:
                fail(error, 1) if options.get("with_failure_count") else fail(error)
                raise

        return super().call_with_retry(attempt, fail, *args, **options)


class _AsyncRetry(AsyncRetry):
    """`_Retry` for asyncio."""

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *args: Any, **options: Any) -> T:
        async def attempt() -> T:
            with _raising_refusals:
                return await do()

        return await super().call_with_retry(attempt, *args, **options)


def checked_replies(replies: list[Any]) -> list[Any]:
    """Return *replies*, in which single commands may have failed. Raises Refused if one of the replies is a refusal."""
    for reply in replies:
        if _is_refusal(reply):
            raise Refused(str(reply)) from reply
    return replies


def _is_refusal(reply: object) -> bool:
    return isinstance(reply, _REFUSALS) or (isinstance(reply, ResponseError) and bool(_REFUSAL.search(str(reply))))


def connect(url: str, *, retries: int = 1, timeout_s: float | None = None) -> RedisClient:
    """Return a client for *url* (redis, rediss, unix, or `sentinel://host:port,host:port/service/db`).

    The client connects on first use. A command fails if the server does not answer within *timeout_s* (5 s) or refuses
    the command. A failed command is retried *retries* times, at most a second apart. (Each attempt also retries to
    connect *retries* times.)
    """
    options = _options(url, _Retry(EqualJitterBackoff(cap=1.0, base=0.05), retries), timeout_s or COMMAND_TIMEOUT_S)
    if url.startswith(SENTINEL):
        return primary_of(sentinels_of(url), **options)
    return Redis.from_url(url, **options)


def node_timeout_s(lease_ms: int) -> float:
    """The time-out of a node's commands: below the lease, so that a frozen server does not cost its claims."""
    least, most = NODE_TIMEOUT_S
    return min(max(least, 0.75 * lease_ms / 1000), most)


def connect_async(url: str, *, retries: int = 1) -> RedisClient:
    """Return an asyncio client for *url*."""
    options = _options(url, _AsyncRetry(EqualJitterBackoff(cap=1.0, base=0.05), retries), COMMAND_TIMEOUT_S)
    if url.startswith(SENTINEL):
        return async_primary_of(sentinels_of(url), **options)
    return AsyncRedis.from_url(url, **options)


def _options(url: str, retry: Any, timeout_s: float) -> dict[str, Any]:
    options = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": timeout_s,
        "retry": retry,
        "retry_on_error": list(UNREACHABLE),
        "health_check_interval": timeout_s,  # an idle connection is checked before it is used
        "max_connections": MAX_CONNECTIONS,
    }
    if url.startswith("unix://"):
        options.pop("socket_connect_timeout")
    return options


def handed_on(push: Any) -> Any:
    """Push handler of a subscription. Without a handler redis-py configures a logger that prints."""
    return push


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
        """Wait up to *seconds* and return True if a job has ended. Raises redis errors.

        Closes the connection of a server that does not reply to health checks any more; redis-py only counts them.
        """
        found = bool(self._pubsub.get_message(timeout=seconds))
        if self._pubsub.health_check_response_counter > MISSED_REPLIES:
            self.reset()
        return found

    def reset(self) -> None:
        """Close the connection. `subscribe` may be called again."""
        self._pubsub.reset()


@contextmanager
def reaching(url: str, job_id: str | None = None) -> Iterator[None]:
    """Raise RuntimeUnavailable, which names the server and what to do, for a redis error within the block."""
    try:
        yield
    except (RedisError, ConnectionError) as error:
        if isinstance(error, TooManyCalls | MaxConnectionsError):
            said, hint = f"was not asked: too many calls at once ({error})", "make fewer calls at a time, or try again"
        elif isinstance(error, AuthenticationError):
            said, hint = f"refuses the user or the password ({error})", "set both in MIRROR_NEURON_REDIS_URL"
        elif isinstance(error, UNREACHABLE) and not isinstance(error, Refused):
            said, hint = f"does not answer ({error})", "start it, or set MIRROR_NEURON_REDIS_URL"
        else:
            said, hint = f"refused: {error}", _advice(str(error))
        raise RuntimeUnavailable(f"the job store at {without_password(url)} {said}", job_id, hint=hint) from error


def _advice(refusal: str) -> str:
    return next((advice for words, advice in ADVICE if re.search(words, refusal, re.IGNORECASE)), "")


def block_ms(client: RedisClient, wait_ms: int) -> int | None:
    """How long a blocking read may wait: less than the time-out of its connection. None: it does not wait."""
    timeout_s: float = client.connection_pool.connection_kwargs.get("socket_timeout") or COMMAND_TIMEOUT_S
    return min(wait_ms, int(timeout_s * 500)) or None


def now_ms(client: RedisClient) -> int:
    """Return the server's time in milliseconds since the epoch."""
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000
