"""A namespace of a real server without workers: tests make the visits themselves, in their own process."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.pools import queue
from mirrorneuron.settings import Settings
from mirrorneuron.store.protocol import JobRef
from tests.support.graphs import job_ref
from workers.runtime import Runtime
from workers.visit import Start, visit


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """A namespace without workers, with a short lease."""
    name = f"visit-{secrets.token_hex(4)}"
    return Settings(redis_url=redis_url, redis_namespace=name, temp_dir=tmp_path / "temp", claim_lease_ms=1_000)


@pytest.fixture
def runtime(settings: Settings) -> Runtime:
    return Runtime(settings, "worker@test")


@pytest.fixture
def app(settings: Settings) -> Celery:
    return make_app(settings)


def queued(runtime: Runtime, pool: str) -> int:
    """The number of tasks in the queue of *pool*."""
    return int(runtime.store.client.llen(queue(runtime.settings.redis_namespace, pool)))


@pytest.fixture
def heavy(settings: Settings, runtime: Runtime, app: Celery) -> Callable[..., JobRef]:
    """Submit a graph, open the job so that its executors are ready, and empty their queue."""

    def opened(graph: Any) -> JobRef:
        client = Client(settings)
        job = job_ref(client, client.run_manifest(graph))
        visit(runtime, app, job, None, Start(opening=True))
        assert queued(runtime, "default") == 1
        runtime.store.client.delete(queue(settings.redis_namespace, "default"))
        return job

    return opened
