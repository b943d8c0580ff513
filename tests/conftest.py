"""Fixtures of all tests: one private server for the session, and one real node on it for those that ask."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from celery import Celery

from mirrorneuron.api.client import Client
from mirrorneuron.settings import Settings
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer

pytest_plugins = ("tests.support.store",)  # the fixtures of tests that call the store without a worker

LOG_TAIL = 8_000  # bytes of a node's log that a failed test shows

# What a shell runs in the background has Ctrl-C ignored, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads of a worker that a test made in this process outlive its server; what they say is for the test alone.
logging.getLogger("workers").addHandler(logging.NullHandler())


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


@pytest.fixture
def unserved(redis_url: str, tmp_path: Path) -> Client:
    """A client whose jobs nobody runs: its namespace is new, and has no node."""
    name = "unserved_" + "".join(c if c.isalnum() else "_" for c in tmp_path.name)[-50:]
    return Client(Settings(redis_url=redis_url, redis_namespace=name))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server of the test's own, which keeps its data: it may be stopped, killed and frozen."""
    with ValkeyServer(tmp_path / "own_server", durable=True) as running:
        yield running


@pytest.fixture
def nobody() -> Iterator[str]:
    """Host and port at which nothing listens while the test runs: the port is taken, so that no other test gets it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def celery_app_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Celery]]:
    """Makes somebody's own Celery app for a namespace's jobs. It knows MirrorNeuron by the URL of its result backend.

    *connects* is how often it tries to connect (default: Celery's 20).
    """
    made: list[Celery] = []

    def make(settings: Settings, connects: int = 20) -> Celery:
        monkeypatch.setenv("MIRROR_NEURON_REDIS_NAMESPACE", settings.redis_namespace)
        backend = f"mirrorneuron+{settings.redis_url}"
        app = Celery("other", broker="memory://", backend=backend, set_as_current=False)
        app.conf.result_backend_thread_safe = True
        app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": connects}}
        made.append(app)
        return app

    yield make
    for app in made:
        app.backend.result_consumer.subscribed_to.clear()  # results that are deleted later send nothing more
        app.backend.result_consumer.stop()
        app.backend.store.client.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of a node's log with each failure of a test that used it."""
    report = yield
    for running in getattr(item, "funcargs", {}).values() if report.failed else ():
        if isinstance(running, RealNode) and running.log.exists():
            report.sections.append(("node log", running.log.read_text(errors="replace")[-LOG_TAIL:]))
    return report
