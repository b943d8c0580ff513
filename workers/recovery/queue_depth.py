"""How many tasks wait in a queue, whatever the broker."""

from __future__ import annotations

from contextlib import suppress

from celery import Celery
from kombu import Connection
from kombu.exceptions import ChannelError


class Backlog:
    """Looks at the queues of *app*'s broker, on a connection of its own. For one thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None

    def of(self, queue: str) -> int:
        """The messages in *queue* that nobody has taken; none in one that is not there. Raises what kombu raises."""
        if self._connection is None:
            self._connection = self._app.connection_for_read()
        try:
            return int(self._connection.default_channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:  # on Redis, a queue that is empty does not exist
            return 0
        except Exception:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.release()
