"""Stop taking tasks while the worker is short of something, so that other nodes run them; try again later."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from mirrorneuron.text import count
from workers.lifecycle.shortage import BOARD, POLL_S

log = logging.getLogger(__name__)

IDLE_S: Final = 2 * POLL_S


class ShortageWatch:
    """Takes the queues of one worker from its consumer while BOARD says so. A thread of the worker's main process."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._queues = tuple(worker.app.amqp.queues.consume_from)

    def run(self, over: threading.Event) -> None:
        """Watch until *over* is set."""
        while not over.wait(IDLE_S):
            try:
                self._look()
            except Exception:  # a consumer that reconnects has no queues to take
                log.debug("cannot change the queues of the consumer", exc_info=True)

    def _look(self) -> None:
        if BOARD.active == BOARD.paused:
            return
        consumer, pause = self._worker.consumer, BOARD.active
        change = consumer.cancel_task_queue if pause else consumer.add_task_queue
        for queue in self._queues:
            consumer.call_soon(change, queue)  # by the event loop, which owns the connection
        BOARD.paused = pause
        if pause and (found := BOARD.present()):
            log.error("%s: this worker takes no tasks from %s for now", found[0], count(len(self._queues), "queue"))
