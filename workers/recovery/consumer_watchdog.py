"""Consumer watchdog: exit a worker that has stopped consuming although tasks wait and the broker is available.

A worker that stays alive after a lost connection but no longer consumes is a well-known fault of task queues. The
process manager (our supervisor, systemd, compose) then starts a new worker.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from celery import signals
from celery.worker import state

from workers.lifecycle.fork_guard import FORKS
from workers.lifecycle.shortage import BOARD
from workers.lifecycle.shutdown import STOP
from workers.recovery.queue_depth import QueueDepth

INTERVAL_S: Final = 2.0  # between two checks while tasks are queued
IDLE_S: Final = 10.0  # between two checks while none are
STALLED_CHECKS: Final = 11  # consecutive checks that found tasks in the queue, a free slot, and no task received
STALL_S: Final = (STALLED_CHECKS - 1) * INTERVAL_S
EXIT_S: Final = 10.0  # for a warm shutdown, in addition to the grace period of running tasks
EXIT_CODE: Final = os.EX_SOFTWARE

log = logging.getLogger(__name__)


class ConsumerStall:
    """Detects that a worker has stopped consuming.

    *queued* returns the number of tasks in the worker's queues, and raises if the broker is unavailable. *has_room*
    tells if the worker could start another task.
    """

    def __init__(self, queued: Callable[[], int], has_room: Callable[[], bool], limit: int = STALLED_CHECKS) -> None:
        self._queued = queued
        self._has_room = has_room
        self._limit = limit
        self._received = False
        self._stalled = 0  #: consecutive checks

    def task_received(self, **_: Any) -> None:
        """Note that the worker has received a task."""
        self._received = True

    @property
    def suspected(self) -> bool:
        """True if the last check found tasks that the worker did not take."""
        return self._stalled > 0

    def check(self) -> bool:
        """Check once. True if the worker has been stalled for *limit* checks in a row."""
        received, self._received = self._received, False
        stalled, self._stalled = self._stalled, 0  # a check that raises starts the count again
        if not received and self._has_room() and self._queued() > 0:
            self._stalled = stalled + 1
        return self._stalled >= self._limit


class ConsumerWatchdog:
    """Checks one worker, in a thread, and exits its process when it has stopped consuming.

    *check_writes* raises if the broker's server refuses writes, because a worker cannot consume from it then. *depth*
    returns the length of a queue more cheaply than the broker, or raises.
    """

    def __init__(
        self,
        worker: Any,
        grace_s: float,
        check_writes: Callable[[], None],
        depth: Callable[[str], int] | None = None,
    ) -> None:
        self._worker = worker
        self._grace_s = grace_s
        self._check_writes = check_writes
        self._depth = depth or QueueDepth(worker.app).of
        self._queues = tuple(worker.app.amqp.queues.consume_from)  # now: a consumer may lose some of them later
        self._stall = ConsumerStall(self._queued, self._has_room)
        signals.task_received.connect(self._stall.task_received, weak=False)

    def run(self, over: threading.Event) -> None:
        """Check until *over* is set, or exit the process."""
        while not over.wait(INTERVAL_S if self._stall.suspected else IDLE_S):
            try:
                with FORKS.held_off():
                    stalled = self._stall.check()
                if stalled and not STOP.begun.is_set():
                    self._exit()
            except Exception as error:  # of any broker's client; with an unavailable broker the consumer is not stalled
                log.debug("cannot check the queues: %s", error)

    def _has_room(self) -> bool:
        return not BOARD.paused and bool(len(state.reserved_requests) < self._worker.concurrency)

    def _queued(self) -> int:
        """The number of tasks in the queues that the worker was started for.

        Raises what kombu and *check_writes* raise.
        """
        queued = sum(self._depth(name) for name in self._queues)
        if queued:
            self._check_writes()
        return queued

    def _exit(self) -> None:
        log.critical(
            "the consumer is stalled: tasks have waited for %g s and none was received; the worker exits",
            STALL_S,
        )
        STOP.begun.set()
        state.should_stop = EXIT_CODE  # starts a warm shutdown, if the worker's event loop still runs
        deadline = time.monotonic() + EXIT_S + (self._grace_s if state.active_requests else 0)
        while time.monotonic() < deadline:
            time.sleep(INTERVAL_S / 4)
        os._exit(EXIT_CODE)
