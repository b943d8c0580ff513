"""The ends of jobs: all waits of a process share one subscription, whether they wait in threads or in event loops."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias

from mirrorneuron.store.connection import RETRY_S, UNREACHABLE, RedisClient, handed_on
from mirrorneuron.store.keys import result_channel

IDLE_S: Final = 10.0  # for which the subscription is kept without a wait: a new connection costs as much as a short job
CHECK_S: Final = 5.0  # between two checks of a silent connection

Wake: TypeAlias = Callable[[], None]
log = logging.getLogger("mirrorneuron")


class EndsListener:
    """One connection and one thread, both while there are waits. Not fork-safe: a child process makes its own."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._lock = threading.RLock()  # a handler of a signal may begin a wait
        self._waits: dict[str, list[Wake]] = {}  #: channel -> one function for each wait
        self._nudge: socket.socket | None = None  #: a byte written here interrupts the thread; None: there is no thread

    @contextmanager
    def listening(self, job_id: str, wake: Wake) -> Iterator[None]:
        """Call *wake* each time the job may have ended: at each push, and when the subscription is confirmed.

        *wake* is called in another thread and must not block. A reader that reads the record after each call misses no
        end. It is also called when the connection is lost, and again when the subscription is repeated.
        """
        channel = result_channel(job_id)
        with self._lock:
            waits = self._waits.setdefault(channel, [])
            if waits:  # the subscription may be confirmed already
                wake()
            waits.append(wake)
            self._changed()
        try:
            yield
        finally:
            with self._lock:
                waits.remove(wake)
                if not waits:
                    del self._waits[channel]
                    self._changed()

    def _changed(self) -> None:
        """Tell the thread that the channels have changed; start it if there is none. Needs the lock."""
        if self._nudge is not None:
            with suppress(BlockingIOError):  # enough bytes wait there
                self._nudge.send(b"x")
        elif self._waits:
            nudge, nudged = socket.socketpair()
            nudge.setblocking(False)
            nudged.setblocking(False)
            run = threading.Thread(target=self._run, args=(nudge, nudged), name="mirrorneuron-ends", daemon=True)
            try:
                run.start()
                self._nudge = nudge
            except RuntimeError as error:  # the system refuses a thread; the waits read the record every few seconds
                log.warning("no thread for the ends of jobs: %s", error)
                nudge.close()
                nudged.close()

    def _run(self, nudge: socket.socket, nudged: socket.socket) -> None:
        pubsub = self._client.pubsub(push_handler_func=handed_on)
        try:
            self._listen(pubsub, nudged)
        finally:
            with self._lock:
                if self._nudge is nudge:
                    self._nudge = None
                nudge.close()
            nudged.close()
            pubsub.close()

    def _listen(self, pubsub: Any, nudged: socket.socket) -> None:
        """Subscribe to the channels of the waits, and wake them. Only this thread uses the subscription."""
        idle_since: float | None = None
        while True:
            with self._lock:
                wanted = {channel.encode() for channel in self._waits}
                idle_since = None if wanted else idle_since or time.monotonic()
                if idle_since and time.monotonic() - idle_since >= IDLE_S:
                    self._nudge = None  # under the lock: the next wait starts another thread
                    return
            try:
                # Asked each time: a reconnect subscribes again to what it was about to unsubscribe.
                have = pubsub.channels.keys() - pubsub.pending_unsubscribe_channels
                if new := wanted - have:
                    pubsub.subscribe(*new)
                if old := have - wanted:
                    pubsub.unsubscribe(*old)
                _await_readable(pubsub.connection if pubsub.subscribed else None, nudged, CHECK_S if wanted else IDLE_S)
                while found := pubsub.get_message(timeout=0):
                    if found["type"] in ("message", "subscribe"):
                        self._wake(found["channel"].decode())
            except Exception as error:  # the thread must survive: without it no push wakes a wait
                # After a lost connection redis-py subscribes again, and the confirmations wake the waits.
                if not isinstance(error, UNREACHABLE):  # such as a socket that another thread has closed
                    log.debug("the subscription to the ends of jobs failed; it is made again", exc_info=True)
                    with suppress(Exception):
                        pubsub.reset()
                with self._lock:
                    self._wake(*self._waits)  # for them to notice the outage
                time.sleep(RETRY_S)

    def _wake(self, *channels: str) -> None:
        with self._lock:
            for channel in channels:
                for wake in self._waits.get(channel, ()):
                    wake()


def _await_readable(connection: Any, nudged: socket.socket, seconds: float) -> None:
    """Wait until there is something to read on one of the two, and take the bytes of *nudged*.

    redis-py has no public way to the socket; kombu's transport reads the same attribute.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(nudged, selectors.EVENT_READ)
        if sock := getattr(connection, "_sock", None):
            selector.register(sock, selectors.EVENT_READ)
        elif connection is not None:
            return  # lost: the next read reconnects
        selector.select(seconds)
    with suppress(BlockingIOError):
        nudged.recv(4096)
