"""Short commands in the caller's own thread, on connections that are open already.

A call of a producer runs in a thread of its own (`call_threads.py`), because looking up a host, connecting and retrying
may take longer than its time-out. One command on an open connection needs none of these: the time-out of its socket is
the bound. What fails here, for whatever reason, is done again in such a thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mirrorneuron.store.connection import RedisClient, handed_on
from mirrorneuron.store.script_rows import Arg

MOST: Final = 4  # open connections of one client; a process with more concurrent calls than that gains nothing
SHARE: Final = 8  # of the connections that the URL allows, at most one in this many

Command: TypeAlias = tuple[Arg, ...]


class NotDirect(Exception):
    """The command cannot be sent in the caller's thread: no connection is open, or the open one gave no answer."""


class DirectLine:
    """The open connections of one client. Not fork-safe: a child process makes its own.

    No lock of Python and no pool of redis-py: an exception of a signal handler may come at any point of the caller's
    thread. A connection that it interrupts is not used again, and is closed when it is collected.
    """

    def __init__(self, client: RedisClient) -> None:
        self._pool = client.connection_pool
        self.most: Final = min(MOST, self._pool.max_connections // SHARE)
        self._open: deque[Any] = deque()
        self._idle: deque[Any] = deque()  #: connections that must be checked before they are used again
        self._more = deque([1] * self.most)  #: an entry for each connection that may still be opened
        self._waits = deque([1] * (self.most > 1))  #: an entry if a wait may begin: several share a subscription
        self._missed = False

    def ask(self, seconds: float, *command: Arg) -> Any:
        """Return the reply to *command*. Waits up to *seconds*. Raises NotDirect, and the command may be sent again."""
        return self.ask_all(seconds, (command,))[0]

    def ask_all(self, seconds: float, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to short *commands*, each within *seconds*. Raises NotDirect if one is an error."""
        connection = self._take()
        try:
            replies = _exchange(connection, commands, len(commands), seconds)
        except BaseException as error:
            self._drop(connection, error)
            raise
        self._open.append(connection)
        return replies

    def wait(
        self,
        channel: str,
        command: Command,
        goes_on: Callable[[Any], bool],
        left_s: Callable[[], float],
        seconds: float,
    ) -> Any:
        """Return the reply to *command* once *goes_on* is false for it, or nothing is left.

        Asks again after each push on *channel*, and after *left_s()*, which is 0 when nothing is left. Each reply comes
        within *seconds*. One thread can wait so at a time. Raises NotDirect, also later on.
        """
        if _taken(self._waits) is None:
            raise NotDirect
        try:
            connection = self._take()
            if connection.protocol not in (3, "3"):
                self._open.append(connection)
                raise NotDirect
            try:
                reply = _wait(connection, channel, command, goes_on, left_s, seconds)
            except BaseException as error:
                self._drop(connection, error)
                raise
            self._open.append(connection)
            return reply
        finally:
            self._waits.append(1)

    def _take(self) -> Any:
        """Take an open connection. Raises NotDirect."""
        connection = _taken(self._open)
        if connection is None:
            raise NotDirect
        if time.monotonic() > connection.next_health_check:
            self._idle.append(connection)
            raise NotDirect
        return connection

    def _drop(self, connection: Any, error: BaseException) -> None:
        """Close a connection on which *error* came. Raises NotDirect if it is one of the connection."""
        connection.disconnect()
        self._more.append(1)
        if isinstance(error, RedisError | OSError):
            raise NotDirect from error

    def open_one(self) -> None:
        """Open a connection for later calls, or check one. In a thread that may wait.

        Not after the first call: a program that makes a single call needs no connection for others.
        """
        if not self._missed:
            self._missed = True
            return
        connection = _taken(self._idle)
        if connection is None:
            if _taken(self._more) is None:
                return
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
        try:
            connection.connect()
            connection._parser.set_pubsub_push_handler(handed_on)  # as redis-py's PubSub does
            connection.check_health()
        except (RedisError, OSError):
            self._more.append(1)
        else:
            self._open.append(connection)

    def close(self) -> None:
        """Close the connections. They are opened again when there are calls."""
        for connections in (self._open, self._idle):
            while connection := _taken(connections):
                connection.disconnect()
                self._more.append(1)


def _exchange(connection: Any, commands: Sequence[Command], count: int, seconds: float) -> list[Any]:
    """Send *commands* and return *count* replies, each within *seconds*. Raises redis errors."""
    if connection.can_read():  # closed, or with a message that has no recipient
        raise RedisConnectionError
    return _sent(connection, commands, count, seconds)


def _sent(connection: Any, commands: Sequence[Command], count: int, seconds: float) -> list[Any]:
    wait = {"timeout": seconds} if seconds < connection.socket_timeout else {}
    packed = connection.pack_command(*commands[0]) if len(commands) == 1 else connection.pack_commands(commands)
    connection.send_packed_command([b"".join(packed)], check_health=False)
    return [connection.read_response(**wait) for _ in range(count)]  # skips pushes


def _wait(
    connection: Any,
    channel: str,
    command: Command,
    goes_on: Callable[[Any], bool],
    left_s: Callable[[], float],
    seconds: float,
) -> Any:
    """See `DirectLine.wait`. A subscription and a command share a round trip, which the protocol RESP3 allows.

    The confirmations of subscriptions are pushes, and not counted as replies.
    """
    begin, end = ("SUBSCRIBE", channel), ("UNSUBSCRIBE", channel)
    (reply,) = _exchange(connection, (begin, command), 1, seconds)
    subscribed = True
    while goes_on(reply) and (left := left_s()) > 0:
        if not subscribed:
            (reply,) = _sent(connection, (begin, command), 1, seconds)
        elif connection.can_read(left):
            (reply,) = _sent(connection, (end, command), 1, seconds)
        else:
            (reply,) = _sent(connection, (command,), 1, seconds)
            continue
        subscribed = not subscribed
    if subscribed:
        _sent(connection, (end, ("PING",)), 1, seconds)
    return reply


def rest_of(seconds: float, began: float) -> float:
    """What is left of *seconds* since *began* (`time.monotonic()`). Raises RedisTimeoutError if nothing is."""
    left = seconds - (time.monotonic() - began)
    if left <= 0:
        raise RedisTimeoutError(f"no answer within {seconds:g} s")
    return round(left, 3) or left  # errors name it


def _taken(entries: deque[Any]) -> Any:
    """Take an entry; None if there is none."""
    try:
        return entries.pop()
    except IndexError:
        return None
