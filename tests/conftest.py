"""Fixtures of all tests: one private server for the session, and one real node on it for those that ask."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator

import pytest

from mirrorneuron.client import Client
from mirrorneuron.settings import Settings
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer

LOG_TAIL = 8_000  # bytes of a node's log that a failed test shows

# What a shell runs in the background has Ctrl-C ignored, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """The session's own server. It is shared: a test that stops or freezes one starts a `ValkeyServer` itself."""
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="session")
def redis_url(server: ValkeyServer) -> str:
    """The URL of the session's own server."""
    return server.url


@pytest.fixture(scope="session")
def node(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """The session's own node: `.settings` for clients, `.env` for subprocesses. It is shared, like the server."""
    folder = tmp_path_factory.mktemp("node")
    settings = Settings(
        redis_url=redis_url, redis_namespace="node_tests", temp_dir=folder / "temp", executor_max_concurrency=2
    )
    with RealNode(folder, settings) as running:
        yield running


@pytest.fixture(scope="session")
def client(node: RealNode) -> Client:
    """A client whose jobs the session's node runs."""
    return Client(node.settings)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the node's log with each failure of a test that used it."""
    report = yield
    running = getattr(item, "funcargs", {}).get("node")
    if report.failed and isinstance(running, RealNode) and running.log.exists():
        report.sections.append(("node log", running.log.read_text(errors="replace")[-LOG_TAIL:]))
    return report
