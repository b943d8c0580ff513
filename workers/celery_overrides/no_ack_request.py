"""Tasks are consumed without acknowledgement."""

from __future__ import annotations

from celery.worker.request import Request


class NoAckRequest(Request):
    """A task from a queue that is consumed with `no_ack`: the task has left the queue and needs no acknowledgement.

    Celery acknowledges it nevertheless, on the channel of the message. On Redis this costs one round trip per task, and
    it ends the worker with an AttributeError if a lost connection has closed the channel.
    Source: celery 5.7 `worker/request.py`, kombu 5.7 `transport/virtual/base.py`.
    """

    def acknowledge(self) -> None:
        """Mark the request as acknowledged; send nothing."""
        self.acknowledged = True
