"""Fixtures of the store tests: a store with a separate namespace for each test, and jobs to put into it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from mirrorneuron.bundle.load import PackedBundle, load, pack
from mirrorneuron.bundle.plan import Plan, make_plan
from mirrorneuron.bundle.prepare import digest_of
from mirrorneuron.job import JobStatus
from mirrorneuron.message import encode
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_creation import JobDraft
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobEnd, JobRef, ReplyCode

GRAPH: dict[str, Any] = {
    "manifest_version": "1.0",
    "graph_id": "g",
    "entrypoints": ["a"],
    "nodes": [
        {"node_id": "a", "agent_type": "router"},
        {"node_id": "x", "agent_type": "executor", "config": {"command": "true"}},
        {"node_id": "join", "agent_type": "aggregator", "config": {"complete_after": 2}},
    ],
    "edges": [
        {"from_node": "a", "to_node": "x", "message_type": "*"},
        {"from_node": "x", "to_node": "join", "message_type": "*"},
    ],
}
NODE: dict[str, Any] = {
    "name": "n1",
    "host": "h",
    "pid": 1,
    "started_at": "2026-01-31T12:00:00.000Z",
    "queues": [],
    "pools": {"light": {"slots": 1, "in_use": 0}},
    "hardware": {},
    "versions": {},
}


class Jobs:
    """Creates jobs of `GRAPH` in a store, and ends them without a worker."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def submit(self, job_id: str, **changes: Any) -> tuple[ReplyCode, JobStatus]:
        bundle, plan = packed(changes)
        self.store.bundles.put(bundle)
        inputs = load({**GRAPH, **changes}).manifest.initial_inputs
        draft = JobDraft(job_id, plan, bundle, static(job_id, bundle), inputs, digest_of(inputs))
        made = self.store.creation.create(draft)
        return made.word, JobStatus(made.status)

    def ref(self, job_id: str) -> JobRef:
        found = self.store.ref(job_id)
        assert found is not None
        return found

    def open(self, job_id: str) -> None:
        self.store.scripts.claim(self.ref(job_id), secrets.token_hex(4), (("light", 0),), opening=True)

    def end(self, job_id: str, status: JobStatus = JobStatus.COMPLETED, output: Any = 1) -> None:
        result = {
            JobStatus.COMPLETED: {"agent_id": "join", "output": output},
            JobStatus.FAILED: {"agent_id": "x", "error": "it broke", "details": {}},
            JobStatus.CANCELLED: {"reason": "no need"},
        }[status]
        agents = [node["node_id"] for node in GRAPH["nodes"]]
        assert self.store.scripts.finish(self.ref(job_id), JobEnd(status, encode(result)), agents) is ReplyCode.SETTLED


def packed(changes: Mapping[str, Any], payloads: Any = None) -> tuple[PackedBundle, Plan]:
    bundle = load({**GRAPH, **changes})
    bundle.payloads_path = payloads
    return pack(bundle, 64 * 1024 * 1024), make_plan(bundle.manifest)


def static(job_id: str, bundle: PackedBundle) -> dict[str, Any]:
    head = {"job_id": job_id, "graph_id": "g", "job_name": "g", "daemon": False, "root_agent_ids": ["a"]}
    policies = {"placement_policy": "local", "recovery_policy": "local_restart"}
    reference = {"graph_id": "g", "manifest_version": "1.0", "digest": bundle.digest}
    return {**head, **policies, "manifest_ref": {**reference, "manifest_path": None, "job_path": None}}


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, redis_namespace=f"store-{secrets.token_hex(6)}", retention_seconds=3_600)


@pytest.fixture
def make_store(settings: Settings) -> Iterator[Callable[..., Store]]:
    """Make stores with other settings, `make_store(retention_seconds=0)`, or arguments, `make_store(retries=0)`."""
    made: list[Store] = []

    def make(retries: int = 3, clock: Callable[[], int] | None = None, **changes: Any) -> Store:
        made.append(Store(settings.model_copy(update=changes), retries=retries, clock=clock, node="node-1"))
        return made[-1]

    yield make
    for store in made:
        store.client.close()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


@pytest.fixture
def jobs(store: Store) -> Jobs:
    return Jobs(store)
