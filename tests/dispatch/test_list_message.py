"""The message with which `create.lua` announces a job equals the one that Celery and kombu would publish."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest
from kombu import Producer

from mirrorneuron.bundle.load import load
from mirrorneuron.bundle.plan import make_plan
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.dispatch.list_message import list_message
from mirrorneuron.message import decode
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobRef
from tests.support.store import GRAPH

DIGEST = "d" * 64
STRANGE = {**GRAPH, "graph_id": 'ü "x" \\ {}'}
TWO = {**GRAPH, "entrypoints": ["a", "x"]}


def read(text: bytes) -> tuple[dict[str, Any], Any]:
    """A message on a list and its body, without what differs from message to message."""
    message = decode(text)
    assert len(message["properties"].pop("delivery_tag")) >= 32
    return message, decode(b64decode(message.pop("body")))


@pytest.mark.parametrize("graph", [GRAPH, STRANGE, TWO])
def test_it_is_the_message_that_kombu_puts_on_the_list(settings: Settings, store: Store, graph: dict[str, Any]) -> None:
    app = make_app(settings)
    chains = Chains(app, settings.redis_namespace, make_plan(load(graph).manifest))

    def publish(job_id: str, producer: Producer | None = None) -> None:
        job = JobRef(job_id, 1, DIGEST)
        chains.publish(chains.opening(job), job, task_id=job_id, producer=producer)

    form = list_message(publish)
    assert form is not None
    for job_id in ("j", "g-1767225600000-abc.def_1"):
        publish(job_id)
        (theirs,) = store.client.lrange(form.queue, 0, -1)
        store.client.delete(form.queue)
        assert read(form.of_job(job_id)) == read(theirs)
    assert form.of_job("j") != form.of_job("j"), "each has a delivery tag of its own"
    app.close()


def test_several_messages_are_none() -> None:
    def publish(job_id: str, producer: Producer) -> None:
        for _ in range(2):
            producer.publish([job_id], routing_key="queue", serializer="json")

    assert list_message(publish) is None
    assert list_message(lambda job_id, producer: None) is None
