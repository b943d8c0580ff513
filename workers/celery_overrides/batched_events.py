"""Send task events in batches: short tasks share one publish, and Flower sees the events 0.1 s later."""

from __future__ import annotations

from typing import Any, Final

from celery import bootsteps
from celery.worker.consumer.events import Events

LATER_S: Final = 0.1  # longest delay of an event; a full buffer is sent earlier


class EventsInBatches(bootsteps.StartStopStep):
    """Makes the consumer's event dispatcher collect events for `LATER_S` before it sends them.

    Celery sends at each turn of the event loop, so once per task. Source: celery 5.7 `events/dispatcher.py` (`send`).
    """

    requires = (Events,)

    def start(self, consumer: Any) -> None:
        """Configure the dispatcher, which Celery creates anew for each connection."""
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

        if hub is not None:  # without an event loop Celery does not buffer events
            dispatcher.on_send_buffered = later

    def shutdown(self, consumer: Any) -> None:
        """Send the remaining events before the dispatcher is closed."""
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()
