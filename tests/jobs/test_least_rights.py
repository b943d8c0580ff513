"""Jobs, controls and reads under the least rights that docs/operations.md gives to nodes, producers and dashboards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.api.resources import Resources
from mirrorneuron.diagnostics.checkup import findings
from mirrorneuron.diagnostics.finding import Finding, Level
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.settings import Settings
from mirrorneuron.store.rights import Role
from tests.support.acl import rules_of, set_user, url_of
from tests.support.graphs import PATIENCE_MS, agent, completed, manifest, single
from tests.support.node import RealNode
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

NS = "least"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("guarded"), durable=True) as running:
        for role in Role:
            set_user(running.client, role, rules_of(role, NS))
        running.client.execute_command("ACL", "SETUSER", Role.NODE, "+info", "+config|get", "+scard")
        yield running


def settings_of(server: ValkeyServer, role: Role, folder: Path) -> Settings:
    url = url_of(server.url, role)
    return Settings(redis_url=url, redis_namespace=NS, temp_dir=folder, executor_max_concurrency=1)


@pytest.fixture(scope="module")
def running(guarded: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    folder = tmp_path_factory.mktemp("node")
    with RealNode(folder, settings_of(guarded, Role.NODE, folder / "temp")) as node:
        yield node


def refusals(server: ValkeyServer) -> list[tuple[str, str, str]]:
    """What the server has refused so far: user, kind, name."""
    return [(str(row["username"]), str(row["reason"]), str(row["object"])) for row in server.client.acl_log()]


def test_no_call_of_any_role_is_refused(guarded: ValkeyServer, running: RealNode, tmp_path: Path) -> None:
    producer = Client(settings_of(guarded, Role.PRODUCER, tmp_path))
    node, dashboard = running.settings, settings_of(guarded, Role.DASHBOARD, tmp_path)
    run_everything(producer, tmp_path)
    read_everything(Client(dashboard))
    pinged(dashboard)
    for role, settings in ((Role.NODE, node), (Role.DASHBOARD, dashboard)):
        found = wait_until(lambda s=settings, r=role: swept(s, r))  # type: ignore[misc]
        assert {each["message"] for each in found if each["level"] != Level.OK} == set()
    assert refusals(guarded) == []


def swept(settings: Settings, role: Role) -> list[Finding]:
    """The findings of `mn doctor`, once the first sweep is over."""
    found = findings(Resources(settings).runtime_status(role))
    return found if any(each["check"] == "sweeps" for each in found) else []


def run_everything(client: Client, folder: Path) -> None:
    """Submit with payloads, wait, control, retry, replay and clean up."""
    (folder / "bundle" / "payloads").mkdir(parents=True)
    (folder / "bundle" / "payloads" / "said").write_text("hello")
    graph = single("cat said", upload_path="said", upload_as="said")
    (folder / "bundle" / "manifest.json").write_text(json.dumps(graph))
    assert completed(client, folder / "bundle")["sandbox"]["stdout"] == "hello"
    old = {"timestamp": "2020-01-01T00:00:00.000Z", "ttl_ms": 600_000, "body": 7}
    fed = client.run_manifest(
        manifest([agent("end", "sensor", complete_job=True, complete_after=2)], initial_inputs={"end": old})
    )
    (dead,) = wait_until(lambda: client.dead_letters(fed))
    client.pause(fed)
    client.resume(fed)
    client.send_message(fed, "end", {"body": 1})
    client.replay(fed, dead["message_id"])
    assert client.wait_for_job(fed, timeout=PATIENCE_MS)["status"] == "completed"
    failing = client.run_manifest(single("exit 1"))
    for from_agent in (None, "work"):
        assert client.wait_for_job(failing, timeout=PATIENCE_MS)["status"] == "failed"
        client.retry(failing, from_agent=from_agent)
    client.wait_for_job(failing, timeout=PATIENCE_MS)
    list(client.stream_events(failing))
    list(client.logs(failing, follow=True))
    client.cancel(client.run_manifest(single("sleep 60")))
    assert client.cleanup_jobs()
    client.run_manifest(single("true"), await_=True, timeout=PATIENCE_MS)
    read_everything(client)


def read_everything(client: Client) -> None:
    for job in client.list_jobs():
        client.inspect_agents(job["job_id"])
        client.events(job["job_id"])
        client.job_details(job["job_id"])
        client.why(job["job_id"])
        client.dead_letters(job["job_id"])
        list(client.logs(job["job_id"]))
    client.cluster_overview()
    assert client.inspect_nodes()


def pinged(settings: Settings) -> None:
    """What Flower does: it asks the workers, and hears their events."""
    app = make_app(settings)
    assert len(app.control.inspect(timeout=5, limit=2).ping() or {}) == 2
    heard: list[str] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection)

        def note(event: dict[str, Any]) -> None:
            heard.append(event["hostname"])
            receiver.should_stop = True

        receiver.handlers["*"] = note
        receiver.capture(limit=None, timeout=30, wakeup=True)
    assert heard
