"""What the tests of jobs share: a second node with tight limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.settings import Settings
from tests.support.node import RealNode

LEASE_MS = 3_000  # long enough for a keeper that has to wait for a busy machine
MESSAGE_CAP = 32 * 1024
OUTPUT_CAP = 20 * 1024  # stdout and logs together are over the cap of a message


@pytest.fixture(scope="session")
def tight_node(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """A node with a short lease and small caps."""
    folder = tmp_path_factory.mktemp("tight_node")
    settings = Settings(
        redis_url=redis_url,
        redis_namespace="tight_tests",
        temp_dir=folder / "temp",
        executor_max_concurrency=2,
        claim_lease_ms=LEASE_MS,
        max_message_bytes=MESSAGE_CAP,
        max_output_bytes=OUTPUT_CAP,
    )
    with RealNode(folder, settings) as running:
        yield running


@pytest.fixture(scope="session")
def tight(tight_node: RealNode) -> Client:
    """A client whose jobs the node with tight limits runs."""
    return Client(tight_node.settings)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder in which commands leave what tests read, and find what tests release them with."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder
