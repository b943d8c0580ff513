"""One task's visit to a job, in this process: what it holds, and for how long."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from mirrorneuron.app import make_app
from mirrorneuron.claim import Word
from mirrorneuron.client import Client
from mirrorneuron.settings import Settings
from tests.jobs.graphs import job_ref, line, single
from tests.support.waiting import wait_until
from workers.runtime import Runtime
from workers.visit import Start, visit


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """A namespace that nobody serves, with a lease that is renewed often."""
    name = f"visit-{secrets.token_hex(4)}"
    return Settings(redis_url=redis_url, redis_namespace=name, temp_dir=tmp_path / "temp", claim_lease_ms=1_000)


@pytest.fixture
def runtime(settings: Settings) -> Runtime:
    return Runtime(settings, "worker@test")


@pytest.fixture
def app(settings: Settings) -> Celery:
    return make_app(settings)


@pytest.mark.parametrize(("graph", "pool"), [(line(3), "light"), (single("true"), "default")])
def test_claims_are_kept_alive_until_the_commit_is_done(
    settings: Settings, runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch, graph: Any, pool: str
) -> None:
    """A commit may have much to send. Without a renewal its claims would be swept, and its worker taken for dead."""
    client = Client(settings)
    job = job_ref(client, client.run_manifest(graph))
    commit, claims = runtime.store.scripts.commit, f"{runtime.store.keys.job(job.job_id)}:claims"
    renewed: list[bool] = []

    def leases() -> dict[bytes, float]:
        return dict(runtime.store.client.zrange(claims, 0, -1, withscores=True))

    def slow(*args: Any, **more: Any) -> Any:
        before = leases()
        wait_until(lambda: all(end > before[agent] for agent, end in leases().items()))
        renewed.append(bool(before))
        return commit(*args, **more)

    monkeypatch.setattr(runtime.store.scripts, "commit", slow)
    visit(runtime, app, job, None, Start(opening=True))
    if pool != "light":
        visit(runtime, app, job, None, Start(pool=pool))
    assert client.inspect_job(job.job_id)["status"] == "completed"
    assert renewed
    assert all(renewed)


def test_mail_that_comes_into_the_middle_of_a_claim_is_not_overtaken(
    settings: Settings, runtime: Runtime, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is refused then, and its agents run one after the other: nothing is lost and nothing waits."""
    client, scripts = Client(settings), runtime.store.scripts
    graph = line(3)
    graph["nodes"][-1]["config"]["complete_after"] = 2
    job = job_ref(client, client.run_manifest(graph))
    commit, words = scripts.commit, []

    def late(*args: Any, **more: Any) -> Any:
        if not words:
            client.send_message(job.job_id, "r1", {"body": "from outside"})
        reply = commit(*args, **more)
        words.append(reply.word)
        return reply

    monkeypatch.setattr(scripts, "commit", late)
    visit(runtime, app, job, None, Start(opening=True))
    assert words[0] is Word.MOVED
    result = client.inspect_job(job.job_id)["result"]
    assert result is not None
    assert result["output"]["messages"] == ["from outside", {}]


def test_a_job_that_has_ended_is_soon_none_of_the_live_ones(settings: Settings, runtime: Runtime, app: Celery) -> None:
    """Nobody sweeps here."""
    client = Client(settings)
    job = job_ref(client, client.run_manifest(line(3)))
    visit(runtime, app, job, None, Start(opening=True))
    wait_until(lambda: not runtime.store.index.live())
    assert client.inspect_job(job.job_id)["status"] == "completed"
