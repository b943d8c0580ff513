"""Task events leave a worker in batches: Flower sees them a moment later, and short tasks share a publish."""

from __future__ import annotations

from typing import Any, Final

from celery import bootsteps
from celery.worker.consumer.events import Events

LATER_S: Final = 0.1  # or as soon as Celery's buffer is full


class EventsInBatches(bootsteps.StartStopStep):
    """Has the consumer's dispatcher wait for more before it sends what it holds.

    Celery sends as soon as the event loop turns, so once a task. Source: celery 5.7 `events/dispatcher.py` (`send`).
    """

    requires = (Events,)

    def start(self, consumer: Any) -> None:
        """Celery has just made a new dispatcher: with its first connection, and after a lost one."""
        dispatcher, hub, waits = consumer.event_dispatcher, consumer.hub, False

        def send() -> None:
            nonlocal waits
            waits = False
            dispatcher.flush()

        def later() -> None:
            nonlocal waits
            if not waits:
                waits = True
                hub.call_later(LATER_S, send)

        if hub is not None:  # else nothing is buffered
            dispatcher.on_send_buffered = later

    def shutdown(self, consumer: Any) -> None:
        """Send what is left, before the dispatcher is closed."""
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()
