"""A node of the test's own, whose workers it may kill, with a short lease."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorneuron.client import Client
from mirrorneuron.settings import Settings
from tests.support.node import RealNode

LEASE_MS = 1_000


@pytest.fixture
def own(redis_url: str, tmp_path: Path) -> Iterator[RealNode]:
    """A node of this test's own."""
    settings = Settings(
        redis_url=redis_url,
        redis_namespace=f"crash-{tmp_path.name}"[:60],
        temp_dir=tmp_path / "temp",
        executor_max_concurrency=2,
        claim_lease_ms=LEASE_MS,
    )
    with RealNode(tmp_path, settings) as running:
        yield running


@pytest.fixture
def jobs(own: RealNode) -> Client:
    """A client whose jobs that node runs."""
    return Client(own.settings)
