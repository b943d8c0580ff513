"""Nodes and servers of one test module, which it may kill, with a short lease. Its jobs must leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.settings import Settings
from tests.support.leftovers import clear
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer

LEASE_MS = 3_000  # long enough for a lease keeper on a busy machine


@pytest.fixture(scope="module")
def overrides() -> dict[str, object]:
    """Settings of the module's node in addition to the usual ones."""
    return {}


@pytest.fixture(scope="module")
def app_module() -> str:
    """The module of the workers' Celery app."""
    return "workers"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server for this module, which keeps its data."""
    with ValkeyServer(tmp_path_factory.mktemp("mortal"), durable=True) as running:
        yield running


@pytest.fixture(scope="module")
def store_url(redis_url: str) -> str:
    """The server of the module's node: the session's server, or `mortal.url` if the module overrides this."""
    return redis_url


@pytest.fixture(scope="module")
def own(
    store_url: str, tmp_path_factory: pytest.TempPathFactory, overrides: dict[str, object], app_module: str
) -> Iterator[RealNode]:
    """A node for this module."""
    folder = tmp_path_factory.mktemp("crash")
    usual = {"temp_dir": folder / "temp", "executor_max_concurrency": 2, "claim_lease_ms": LEASE_MS}
    settings = Settings.load(redis_url=store_url, redis_namespace=folder.name, **(usual | overrides))
    with RealNode(folder, settings, app_module) as running:
        yield running


@pytest.fixture
def jobs(own: RealNode) -> Iterator[Client]:
    """A client of that node. Its jobs must leave nothing behind."""
    client = Client(own.settings)
    yield client
    clear(client)
