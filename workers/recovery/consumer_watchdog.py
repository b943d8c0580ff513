"""A worker watches itself: one that lives and takes nothing, although mail waits for it and the broker answers, ends.

Workers that come back from a lost connection alive and deaf are the oldest complaint about task queues. Whoever keeps
the worker running (our supervisor, systemd, compose) starts a fresh one.
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
from workers.lifecycle.shutdown import STOP
from workers.recovery.queue_depth import Backlog

INTERVAL_S: Final = 2.0
PATIENCE: Final = 15  # looks in a row at which mail waited, a slot was free, and nothing was taken
FAREWELL_S: Final = 10.0  # for the worker to end by itself, above the grace for what it runs
EXIT_CODE: Final = os.EX_SOFTWARE

log = logging.getLogger(__name__)


class ConsumerStall:
    """Says when a worker has been deaf for too long. *waiting*: messages in its queues; raises when nobody answers."""

    def __init__(self, waiting: Callable[[], int], free: Callable[[], bool], patience: int = PATIENCE) -> None:
        self._waiting = waiting
        self._free = free
        self._patience = patience
        self._heard = False
        self._missed = 0

    def heard(self, **_: Any) -> None:
        """The worker has taken a message."""
        self._heard = True

    def look(self) -> bool:
        """Look once; True when it is deaf."""
        heard, self._heard = self._heard, False
        missed, self._missed = self._missed, 0  # a look that fails ends the row
        if not heard and self._free() and self._waiting() > 0:
            self._missed = missed + 1
        return self._missed >= self._patience


class ConsumerWatchdog:
    """Looks at one worker every `INTERVAL_S`, in a thread, and ends it when it is deaf.

    *check* raises where the broker's server takes no writes: nobody can take mail from it then.
    """

    def __init__(self, worker: Any, grace_s: float, check: Callable[[], None]) -> None:
        self._worker = worker
        self._grace_s = grace_s
        self._check = check
        self._backlog = Backlog(worker.app)
        self._deafness = ConsumerStall(self._queued, self._has_room)
        signals.task_received.connect(self._deafness.heard, weak=False)

    def run(self, over: threading.Event) -> None:
        """Watch until *over*, or until the worker is deaf."""
        while not over.wait(INTERVAL_S):
            try:
                with FORKS.held_off():
                    deaf = self._deafness.look()
                if deaf and not STOP.begun.is_set():
                    self._end()
            except Exception as error:  # whatever the broker's client raises: nobody is deaf to a broker that is away
                log.debug("the queues cannot be looked at: %s", error)

    def _has_room(self) -> bool:
        return bool(len(state.reserved_requests) < self._worker.concurrency)

    def _queued(self) -> int:
        """How many messages wait in the queues that the worker is to take from. Raises what kombu and *check* raise."""
        self._check()
        return sum(self._backlog.of(name) for name in list(self._worker.app.amqp.queues.consume_from))

    def _end(self) -> None:
        log.critical("mail has waited for %g s and none was taken: this worker ends", PATIENCE * INTERVAL_S)
        STOP.begun.set()
        state.should_stop = EXIT_CODE  # a worker whose loop still turns ends warmly
        deadline = time.monotonic() + FAREWELL_S + (self._grace_s if state.active_requests else 0)
        while time.monotonic() < deadline:
            time.sleep(INTERVAL_S / 4)
        os._exit(EXIT_CODE)
