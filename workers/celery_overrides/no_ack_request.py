"""How a node takes a task off its queue: at once, and for good."""

from __future__ import annotations

from celery.worker.request import Request


class NoAckRequest(Request):
    """A task from a queue that is consumed with `no_ack`: it has left the queue, so there is nothing to acknowledge.

    Celery acknowledges all the same, on the channel that the message came by. On Redis that is a round trip a task, and
    an AttributeError that ends the worker when a lost connection has closed the channel.
    Source: celery 5.7 `worker/request.py`, kombu 5.7 `transport/virtual/base.py`.
    """

    def acknowledge(self) -> None:
        """Note that the task has been taken."""
        self.acknowledged = True
