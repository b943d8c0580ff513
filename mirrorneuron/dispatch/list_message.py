"""The announcement of a job as kombu puts it on a Redis list, for a job store that is the broker too.

Celery and kombu take longer to make and publish a message than the store takes to create a job. Therefore they make one
for each bundle, as they would for any other, and each job puts its id into a copy of it.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.signals import after_task_publish, before_task_publish
from kombu import Connection, Producer
from kombu.transport import memory
from kombu.utils.json import dumps


@dataclass(frozen=True, slots=True)
class ListMessage:
    """One message, for any job."""

    queue: str
    _outer: bytes
    _body: bytes
    _job: bytes  #: stands for the id of a job, in both
    _tag: bytes  #: stands for the delivery tag
    _place: bytes  #: stands for the encoded body

    def of_job(self, job_id: str) -> bytes:
        """The message for *job_id*."""
        job = job_id.encode()
        outer = self._outer.replace(self._job, job).replace(self._tag, secrets.token_hex(16).encode())
        return outer.replace(self._place, b64encode(self._body.replace(self._job, job)))


def list_message(publish: Callable[[str, Producer], None]) -> ListMessage | None:
    """Make the message that *publish*, which gets an id for the job and a producer, would put on a list.

    None if it is not one message in the encoding that kombu's Redis transport writes.
    """
    put: list[tuple[str, dict[str, Any]]] = []
    job, tag, place = (secrets.token_hex(16) for _ in range(3))
    with Connection(transport=memory.Transport) as connection:
        channel = connection.channel()
        channel._put = lambda queue, message, **_: put.append((queue, message))
        publish(job, Producer(channel, auto_declare=False))
    if len(put) != 1 or put[0][1]["properties"].get("body_encoding") != "base64":
        return None
    queue, message = put[0]
    body = b64decode(message["body"])
    message["body"], message["properties"]["delivery_tag"] = place, tag
    return ListMessage(queue, dumps(message).encode(), body, job.encode(), tag.encode(), place.encode())


def publishing_is_watched() -> bool:
    """True if something in this process has to see each message that Celery publishes, such as a tracer."""
    return bool(before_task_publish.has_listeners() or after_task_publish.has_listeners())
