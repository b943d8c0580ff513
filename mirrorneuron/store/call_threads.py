"""Threads for the calls of a client, so that a call ends in time whatever it waits for.

A time-out of a socket bounds one read. It bounds neither the lookup of a host name, nor the retries, nor a broker's
library. Therefore a call runs in a thread of its own, and the caller stops waiting when the time is over.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

from redis.exceptions import TimeoutError as RedisTimeoutError

from mirrorneuron.store.connection import TooManyCalls, gives_up_at

MAX_THREADS: Final = 64  # concurrent calls of one client; each may use a connection
IDLE_S: Final = 10.0  # after which an unused thread ends

T = TypeVar("T")
_current: Final = threading.local()
log = logging.getLogger("mirrorneuron")


class _Call(Generic[T]):
    """One call. Its commands are not retried after *seconds* if it is *bounded*."""

    def __init__(self, do: Callable[[], T], seconds: float, *, bounded: bool = True) -> None:
        self._do = do
        self._context = copy_context()
        self._turn: SimpleQueue[None] = SimpleQueue()  #: whoever takes its entry begins the call, or cancels it
        self._turn.put(None)
        self.seconds = seconds
        self.at = time.monotonic() + seconds if bounded else None
        self.settled: list[T] = []  #: the result, if it is known before the call ends
        self.ended: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.future: Future[T] = Future()  #: of an event loop
        self.expected = False  #: by a thread that was idle

    def execute(self) -> None:
        if not _entry(self._turn) or not self.future.set_running_or_notify_cancel():
            return
        result: Any = None
        failure: BaseException | None = None
        try:
            result = self._context.run(self._do_until)
        except BaseException as error:
            failure = error
        self.ended.put((result, failure))
        if failure is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(failure)

    def _do_until(self) -> T:
        gives_up_at.set(self.at)
        return self._do()

    def result(self, wait_s: float | None) -> T:
        """The result of the call after at most *wait_s*. Raises what it raised, TooManyCalls or RedisTimeoutError."""
        try:
            result, failure = self.ended.get(timeout=wait_s) if wait_s else self.ended.get_nowait()
        except Empty:
            return self._overdue()
        if failure is not None:
            raise failure
        found: T = result
        return found

    def _overdue(self) -> T:
        if _entry(self._turn):
            raise TooManyCalls(f"no thread was free within {self.seconds:g} s")
        if self.settled:
            log.warning(
                "the announcement takes longer than %g s; it goes on, and if it fails the sweeper repeats it",
                self.seconds,
            )
            return self.settled[0]
        raise RedisTimeoutError(f"no answer within {self.seconds:g} s")


def threads_run() -> bool:
    """False in a worker of uWSGI without `enable-threads` or `threads`: a thread that is started there never runs."""
    options: Mapping[str, Any] | None = getattr(sys.modules.get("uwsgi"), "opt", None)
    if options is None or "threads" in options:
        return True
    return str(options.get("enable-threads", "false")).lower() not in ("false", "off", "no", "0")


class CallThreads:
    """At most *most* daemon threads. Not fork-safe: a child process makes its own.

    The caller's thread uses no lock of Python, only queues of C: an exception of a signal handler, such as Celery's
    soft time limit, may come at any point of it, and must not leave a lock held.
    """

    def __init__(self, most: int = MAX_THREADS) -> None:
        self._calls: SimpleQueue[_Call[Any]] = SimpleQueue()
        self._idle: SimpleQueue[None] = SimpleQueue()  #: an entry for each thread that waits for a call
        self._more: SimpleQueue[None] = SimpleQueue()  #: an entry for each thread that may still be started
        for _ in range(most):
            self._more.put(None)

    def run(self, do: Callable[[], T], seconds: float) -> T:
        """Return what *do* returns, or raise what it raises. Waits up to *seconds*.

        Where no threads run, *do* has only the time-outs of its commands.

        Raises RedisTimeoutError when the time is over, and TooManyCalls if *do* was not even started by then. A call
        within a call is part of that one.
        """
        if getattr(_current, "threads", None) is self or not threads_run():
            return do()
        call = _Call(do, seconds)
        self._start(call)
        return call.result(seconds)

    async def run_async(self, do: Callable[[], T], seconds: float, *, until_started: bool = False) -> T:
        """`run` for asyncio. A cancelled call that has been started goes on.

        With *until_started* the time-out ends when a thread begins with the call.
        """
        call = _Call(do, seconds, bounded=not until_started)
        self._start(call)
        done = asyncio.wrap_future(call.future)
        done.add_done_callback(lambda done: done.cancelled() or done.exception())  # otherwise asyncio logs it
        try:
            await asyncio.wait((done,), timeout=seconds)
            if until_started and call.future.running():
                await asyncio.wait((done,))
        except asyncio.CancelledError:
            done.cancel()
            raise
        return done.result() if done.done() else call.result(None)

    def _start(self, call: _Call[Any]) -> None:
        """Queue *call*, and start a thread for it unless one is idle. Executes it if the system refuses a thread."""
        call.expected = _entry(self._idle)
        if not call.expected and _entry(self._more):
            try:
                start_new_thread(self._serve, ())
            except RuntimeError:
                self._more.put(None)
                call.execute()  # each command still has its own time-out
                return
        self._calls.put(call)

    def _serve(self) -> None:
        _current.threads = self
        while call := self._next():
            _current.call = call
            call.execute()
            del call, _current.call  # they hold the client's connections
        self._more.put(None)

    def _next(self) -> _Call[Any] | None:
        """The next call; None if none came for IDLE_S, and the thread has to end."""
        with suppress(Empty):
            return self._calls.get_nowait()
        while True:
            self._idle.put(None)
            try:
                call = self._calls.get(timeout=IDLE_S)
            except Empty:
                if _entry(self._idle):
                    return None
                continue  # a call has taken the entry, and comes
            if not call.expected:  # it was queued before the entry
                _entry(self._idle)
            return call


def _entry(queue: SimpleQueue[None]) -> bool:
    """Take an entry of *queue*. Returns False if there is none."""
    try:
        queue.get_nowait()
    except Empty:
        return False
    return True


def settled(value: T) -> T:
    """Note that the current call will return *value*, and return it.

    What the call still does, such as the announcement of a change that is made, may then exceed the time-out: the call
    returns *value* in time, and the rest goes on in its thread.
    """
    call: _Call[T] | None = getattr(_current, "call", None)
    if call is not None:
        call.settled.append(value)
    return value
