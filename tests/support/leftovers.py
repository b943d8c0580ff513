"""What jobs leave behind: nothing that stays for ever, whatever was done to their workers and their server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from mirrorneuron import JobNotFound, JobStateError
from mirrorneuron.api.client import Client
from mirrorneuron.chaos.invariants import Expected, Violation, claims, of_job, of_store
from mirrorneuron.store.job_store import Store
from tests.support.waiting import wait_until


def assert_went_well(client: Client, job_id: str, expected: Expected) -> None:
    """The job has completed, and each of its messages took effect once."""
    store = Store(client.settings)
    found = of_job(store, job_id, expected)
    store.client.close()
    assert not found, "\n".join(map(str, found))


def clear(client: Client) -> None:
    """End the jobs that live, and delete all: before and after it nothing is left that should not be.

    No key of the namespace without a live job or a time to live, no claim, and none but live jobs in their index.
    """
    store = Store(client.settings)
    for job in client.list_jobs(include_terminal=False):
        with suppress(JobNotFound, JobStateError):  # it has ended meanwhile
            client.cancel(job["job_id"])
    try:
        _settled(store)
    finally:  # else the next test fails for it too
        client.cleanup_jobs(all=True)
    _settled(store)
    store.client.close()


def _settled(store: Store) -> None:
    """Wait until nothing is left: workers may be about to tidy up after a job that has just ended."""
    found: list[Violation] = []

    def nothing() -> bool:
        found[:] = _left(store)
        return not found

    try:
        wait_until(nothing, every=0.1)
    except AssertionError:
        raise AssertionError("left behind:\n" + "\n".join(map(str, found))) from None


def _left(store: Store) -> Iterator[Violation]:
    yield from of_store(store)
    for summary in store.jobs():
        with suppress(JobNotFound):  # it has been deleted meanwhile
            if job := store.job(summary["job_id"]):
                yield from claims(store, job["job_id"], store.agents(job))
