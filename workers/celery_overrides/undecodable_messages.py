"""A queue may hold anything. What is no message at all costs its worker a reconnection, not its life."""

from __future__ import annotations

import logging
from typing import Any, Final

from celery import bootsteps

#: What kombu raises when it reads bytes that are no JSON, and JSON that is no message.
NO_MESSAGE: Final = (ValueError, TypeError, LookupError, AttributeError)

log = logging.getLogger(__name__)


class SurviveUndecodable(bootsteps.StartStopStep):
    """Has the consumer take what kombu cannot read for a lost connection.

    kombu's virtual transports read a message outside of Celery's error handling, and the worker would end. It has left
    the queue by then. Source: kombu 5.7 `transport/redis.py` (`_brpop_read`), celery 5.7 `worker/consumer/consumer.py`
    (`start`).
    """

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        turn = consumer.loop

        def loop(*args: Any) -> None:
            try:
                turn(*args)
            except NO_MESSAGE as error:
                log.exception("a queue of this worker held a message that cannot be decoded; the message was dropped")
                raise ConnectionError("a message in a queue could not be decoded") from error

        consumer.loop = loop
