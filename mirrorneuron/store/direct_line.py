"""Short commands in the caller's own thread, on connections that are open already.

A call of a producer runs in a thread of its own (`call_threads.py`), because looking up a host, connecting and retrying
may take longer than its time-out. One command on an open connection needs none of these: the time-out of its socket is
the bound. What fails here, for whatever reason, is done again in such a thread.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from mirrorneuron.store.connection import RedisClient

MOST: Final = 4  # open connections of one client; a process with more concurrent calls than that gains nothing
SHARE: Final = 8  # of the connections that the URL allows, at most one in this many


class NotDirect(Exception):
    """There is no open connection, or it did not answer."""


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
        self._missed = False

    def ask(self, seconds: float, *command: str | bytes | int) -> Any:
        """Return the reply to *command*, which may be sent twice. Waits up to *seconds*. Raises NotDirect."""
        connection = _taken(self._open)
        if connection is None:
            raise NotDirect
        if time.monotonic() > connection.next_health_check:
            self._idle.append(connection)
            raise NotDirect
        wait = {"timeout": seconds} if seconds < connection.socket_timeout else {}
        try:
            if connection.can_read():  # closed, or with a message that has no recipient
                raise RedisConnectionError
            connection.send_packed_command(connection.pack_command(*command), check_health=False)
            reply = connection.read_response(**wait)
        except BaseException as error:
            connection.disconnect()
            self._more.append(1)
            if isinstance(error, RedisError | OSError):
                raise NotDirect from error
            raise
        self._open.append(connection)
        return reply

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


def _taken(entries: deque[Any]) -> Any:
    """Take an entry; None if there is none."""
    try:
        return entries.pop()
    except IndexError:
        return None
