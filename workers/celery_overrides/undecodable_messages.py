"""An undecodable message in a queue makes the consumer reconnect instead of ending the worker."""

from __future__ import annotations

import logging
from typing import Any, Final

from celery import bootsteps

#: What kombu raises for bytes that are not valid JSON, and for JSON that is not a message.
UNDECODABLE: Final = (ValueError, TypeError, LookupError, AttributeError)

log = logging.getLogger(__name__)


class SurviveUndecodable(bootsteps.StartStopStep):
    """Makes the consumer treat an undecodable message like a lost connection.

    kombu's virtual transports decode a message outside of Celery's error handling, so the error would end the worker.
    The message has left the queue by then.
    Source: kombu 5.7 `transport/redis.py` (`_brpop_read`), celery 5.7 `worker/consumer/consumer.py` (`start`).
    """

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        original = consumer.loop

        def loop(*args: Any) -> None:
            try:
                original(*args)
            except UNDECODABLE as error:
                log.exception("a queue of this worker held a message that cannot be decoded; the message was dropped")
                raise ConnectionError("a message in a queue could not be decoded") from error

        consumer.loop = loop
