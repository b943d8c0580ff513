"""The number of tasks in a queue, for any broker that kombu supports."""

from __future__ import annotations

from contextlib import suppress

from celery import Celery
from kombu import Connection
from kombu.exceptions import ChannelError


class QueueDepth:
    """Reads queue lengths from the broker of *app*, on a separate connection. Not thread-safe."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None

    def of(self, queue: str) -> int:
        """The number of tasks in *queue* that no worker has received; 0 if it does not exist. Raises kombu's errors."""
        if self._connection is None:
            self._connection = self._app.connection_for_read()
        try:
            return int(self._connection.default_channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:  # on Redis, an empty queue does not exist
            return 0
        except Exception:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.release()
