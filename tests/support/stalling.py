"""The workers' Celery app with remote control commands that stop a worker from consuming.

`block_event_loop` blocks the worker's event loop forever. `stop_consuming` cancels the consumer, and the loop
continues. `lose_queues` takes the queues from the consumer, as Celery's `cancel_consumer` does. All create *trace*.
"""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

from celery.worker.control import control_command

from workers.recovery import consumer_watchdog, sweeper
from workers.recovery.reminders import Reminders
from workers.tasks import app

__all__ = ["app"]

consumer_watchdog.INTERVAL_S = consumer_watchdog.IDLE_S = 0.1  # type: ignore[misc]
consumer_watchdog.EXIT_S = 0.5  # type: ignore[misc]
sweeper.Reminders = partial(Reminders, first_wait_s=0.3)  # type: ignore[assignment,attr-defined]  # the first task may be received before the consumer stops


@control_command()
def block_event_loop(_state: Any, trace: str) -> None:
    Path(trace).touch()
    threading.Event().wait()


@control_command()
def stop_consuming(state: Any, trace: str) -> None:
    state.consumer.task_consumer.cancel()
    Path(trace).touch()


@control_command()
def lose_queues(state: Any, trace: str) -> None:
    for queue in list(state.app.amqp.queues.consume_from):
        state.consumer.cancel_task_queue(queue)
    Path(trace).touch()
