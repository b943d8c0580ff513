"""Jobs by status: what is listed and counted, what a race or a crash leaves, and that other kept jobs cost nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mirrorneuron.api.client import Client
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.job import JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import ReplyCode
from tests.support.store import Jobs
from workers.recovery import sweeper as sweeper_module
from workers.recovery.sweeper import Sweeper

ENDS = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
AGENTS = ["a", "x", "join"]


@pytest.fixture
def client(settings: Settings) -> Client:
    return Client(settings)


def listed(store: Store, status: JobStatus) -> list[str]:
    return [job["job_id"] for page in store.job_pages(status=status) for job in page if job["status"] == status]


def entries(store: Store) -> dict[str, set[str]]:
    """The ids in the index of each terminal status."""
    return {end: {name.decode() for name in store.client.zrange(store.keys.of_status(end), 0, -1)} for end in ENDS}


def ended(jobs: Jobs, name: str, status: JobStatus = JobStatus.COMPLETED) -> None:
    jobs.submit(name)
    jobs.end(name, status)
    jobs.store.index.mark_ended([name])


def retry(store: Store, name: str) -> None:
    ref = store.ref(name)
    assert ref
    store.index.mark_live(name)
    assert store.scripts.retry(ref, b"{}", AGENTS, "", [])[0].word is ReplyCode.SETTLED


def test_each_status_is_listed_newest_first_and_counted(
    make_store: Callable[..., Store], store: Store, client: Client
) -> None:
    """Also an ended job that is in the live index still, as for a moment after each end."""
    for number, status in enumerate((*ENDS, *ENDS)):
        jobs = Jobs(make_store(clock=lambda number=number: 1_700_000_000_000 + number))
        jobs.submit(f"{status}-{number}")
        jobs.end(f"{status}-{number}", status)
        if number > 1:
            jobs.store.index.mark_ended([f"{status}-{number}"])
    jobs = Jobs(store)
    for name in ("pending", "running", "paused"):
        jobs.submit(name)
    jobs.open("running")
    jobs.open("paused")
    store.scripts.pause_resume("paused", JobStatus.PAUSED, b"")
    assert {status: listed(store, status) for status in JobStatus} == {
        "pending": ["pending"],
        "running": ["running"],
        "paused": ["paused"],
        "completed": ["completed-3", "completed-0"],
        "failed": ["failed-4", "failed-1"],
        "cancelled": ["cancelled-5", "cancelled-2"],
    }
    assert client.cluster_overview()["counts"] == {
        status: 1 if status in ("pending", "running", "paused") else 2 for status in JobStatus
    }
    assert [job["job_id"] for job in client.list_jobs(status="failed", limit=1)] == ["failed-4"]


def test_a_retried_job_has_no_end_and_then_another_one(store: Store, jobs: Jobs) -> None:
    ended(jobs, "j", JobStatus.FAILED)
    retry(store, "j")
    assert entries(store) == {"completed": set(), "failed": set(), "cancelled": set()}
    jobs.end("j")
    store.index.mark_ended(["j"])
    assert entries(store) == {"completed": {"j"}, "failed": set(), "cancelled": set()}


def test_a_deleted_job_and_one_that_has_expired_leave_no_entry(
    store: Store, jobs: Jobs, make_store: Callable[..., Store]
) -> None:
    for name in ("deleted", "expired"):
        ended(jobs, name)
    assert store.delete("deleted", AGENTS)
    store.client.delete(store.keys.job("expired"))
    make_store(clock=lambda: store.now_ms() + 10 * 3_600_000).index.forget_expired()
    assert entries(store)["completed"] == set()


@pytest.mark.parametrize("change", ["retried", "ended otherwise", "deleted"])
def test_a_job_that_changes_while_it_is_marked_as_ended_has_the_entry_of_its_record(
    store: Store, make_store: Callable[..., Store], jobs: Jobs, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The change comes after the status was read, and before the entries are written."""
    jobs.submit("j")
    jobs.end("j", JobStatus.FAILED)
    other = Jobs(make_store())
    read = store.index._statuses

    def change_then(*args: Any) -> Any:
        found = read(*args)
        monkeypatch.undo()
        if change == "deleted":
            assert other.store.delete("j", AGENTS)
        else:
            retry(other.store, "j")
        if change == "ended otherwise":
            other.end("j")
        return found

    monkeypatch.setattr(store.index, "_statuses", change_then)
    store.index.mark_ended(["j"])
    assert entries(store) == {
        "completed": {"j"} if change == "ended otherwise" else set(),
        "failed": set(),
        "cancelled": set(),
    }
    assert store.index.live() == (["j"] if change == "retried" else [])


def test_an_index_of_an_earlier_version_is_completed_and_nothing_is_missed_until_then(
    store: Store, jobs: Jobs, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper_module, "COMPARED", 2)
    now = [1_000.0]
    monkeypatch.setattr(sweeper_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for number in range(7):
        ended(jobs, f"j{number}", ENDS[number % 3])
    store.client.delete(*map(store.keys.of_status, ENDS))
    sweeper = Sweeper(store, make_app(store.settings), lambda digest: store.plan(digest)[0])
    assert store.index.by_status.counts() is None
    for _ in range(4):
        assert client.cluster_overview()["counts"]["completed"] == len(listed(store, JobStatus.COMPLETED)) == 3
        assert sweeper.tick(), "while most entries are missing, a sweep compares the next ones each second"
    assert store.index.by_status.counts() == Counter(completed=3, failed=2, cancelled=2)
    assert len(client.list_jobs(status="completed")) == 3


def test_a_page_by_status_costs_the_same_whatever_else_is_kept(
    store: Store, jobs: Jobs, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = Counter[str]()
    ended(jobs, "failed", JobStatus.FAILED)
    jobs.submit("live")

    def cost(ask_for: Callable[[], object]) -> int:
        trips.clear()
        own = client._live_parts().store.client
        pipeline, ask = own.pipeline, own.execute_command

        def counted(*args: Any, **options: Any) -> Any:
            trips["commands"] += 1
            return ask(*args, **options)

        def counted_pipe(*args: Any, **options: Any) -> Any:
            pipe = pipeline(*args, **options)
            execute = pipe.execute

            def run(*args: Any, **options: Any) -> Any:
                trips["commands"] += len(pipe)
                return execute(*args, **options)

            pipe.execute = run
            return pipe

        monkeypatch.setattr(own, "pipeline", counted_pipe)
        monkeypatch.setattr(own, "execute_command", counted)
        ask_for()
        monkeypatch.undo()
        return trips["commands"]

    asked = (lambda: client.list_jobs(status="failed"), lambda: client.list_jobs(include_terminal=False))
    asked[0]()  # connects
    few = [cost(one) for one in asked]
    for number in range(300):
        ended(jobs, f"j{number}")
    assert [cost(one) for one in asked] == few
    assert 0 < few[0] < 20
