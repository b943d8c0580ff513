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
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import copy_context
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
        self.future: Future[T] = Future()
        self.seconds = seconds
        self.at = time.monotonic() + seconds if bounded else None
        self.settled: list[T] = []  #: the result, if it is known before the call ends

    def execute(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._context.run(self._do_until)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def _do_until(self) -> T:
        gives_up_at.set(self.at)
        return self._do()

    def outcome(self) -> T:
        """The result after *seconds*, if it is known by now. Raises TooManyCalls or RedisTimeoutError."""
        if self.future.cancel():
            raise TooManyCalls(f"no thread was free within {self.seconds:g} s")
        if self.future.done():
            return self.future.result()
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
    """At most *most* daemon threads. Not fork-safe: a child process makes its own."""

    def __init__(self, most: int = MAX_THREADS) -> None:
        self._most = most
        self._queued: deque[_Call[Any]] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._busy = 0  #: threads that execute a call

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
        try:
            return call.future.result(seconds)
        except TimeoutError:
            return call.outcome()

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
        return done.result() if done.done() else call.outcome()

    def _start(self, call: _Call[Any]) -> None:
        """Queue *call*, and start a thread for it unless one is unused. Executes it if the system refuses a thread."""
        with self._changed:
            self._queued.append(call)
            if len(self._queued) <= self._threads - self._busy or self._threads == self._most:
                self._changed.notify()
                return
            try:
                threading.Thread(target=self._serve, name="mirrorneuron-call", daemon=True).start()
            except RuntimeError:
                if self._threads:
                    return
                self._queued.remove(call)
            else:
                self._threads += 1
                return
        call.execute()  # each command still has its own time-out

    def _serve(self) -> None:
        _current.threads = self
        while call := self._next():
            _current.call = call
            call.execute()
            del call, _current.call  # they hold the client's connections
            with self._changed:
                self._busy -= 1

    def _next(self) -> _Call[Any] | None:
        """The next call; None if none came for IDLE_S, and the thread has to end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._queued, IDLE_S):
                self._threads -= 1
                return None
            self._busy += 1
            return self._queued.popleft()


def settled(value: T) -> T:
    """Note that the current call will return *value*, and return it.

    What the call still does, such as the announcement of a change that is made, may then exceed the time-out: the call
    returns *value* in time, and the rest goes on in its thread.
    """
    call: _Call[T] | None = getattr(_current, "call", None)
    if call is not None:
        call.settled.append(value)
    return value
