"""A node of the test's own, whose workers it may kill, with a short lease."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirrorneuron.client import Client
from mirrorneuron.settings import Settings
from tests.support.node import RealNode

LEASE_MS = 1_000


@pytest.fixture(scope="module")
def overrides() -> dict[str, object]:
    """Settings of the module's node beside the usual ones."""
    return {}


@pytest.fixture(scope="module")
def app_module() -> str:
    """Where the workers find their Celery app."""
    return "workers"


@pytest.fixture(scope="module")
def own(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory, overrides: dict[str, object], app_module: str
) -> Iterator[RealNode]:
    """A node of this module's own."""
    folder = tmp_path_factory.mktemp("crash")
    usual = {"temp_dir": folder / "temp", "executor_max_concurrency": 2, "claim_lease_ms": LEASE_MS}
    settings = Settings.load(redis_url=redis_url, redis_namespace=folder.name, **(usual | overrides))
    with RealNode(folder, settings, app_module) as running:
        yield running


@pytest.fixture
def jobs(own: RealNode) -> Iterator[Client]:
    """A client whose jobs that node runs; it leaves none behind."""
    client = Client(own.settings)
    yield client
    client.cleanup_jobs(all=True)
