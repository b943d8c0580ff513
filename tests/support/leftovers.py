"""Check that jobs leave nothing behind forever, whatever happened to their workers and their server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from mirrorneuron import JobNotFound, JobStateError
from mirrorneuron.api.client import Client
from mirrorneuron.chaos.invariants import Expected, Violation, claims, of_job, of_store
from mirrorneuron.store.job_store import Store
from tests.support.waiting import wait_until


def assert_went_well(client: Client, job_id: str, expected: Expected) -> None:
    """Check that the job has completed and that each of its messages took effect once."""
    store = Store(client.settings)
    found = of_job(store, job_id, expected)
    store.client.close()
    assert not found, "\n".join(map(str, found))


def clear(client: Client) -> None:
    """End the live jobs and delete all jobs. Before and after that, check that nothing is left behind.

    Every key belongs to a live job or has a time to live, no claim is left, and the live index has only live jobs.
    """
    store = Store(client.settings)
    for job in client.list_jobs(include_terminal=False):
        with suppress(JobNotFound, JobStateError):  # it has ended in the meantime
            client.cancel(job["job_id"])
    try:
        _settled(store)
    finally:  # otherwise the next test fails for the same reason
        client.cleanup_jobs(all=True)
    _settled(store)
    store.client.close()


def _settled(store: Store) -> None:
    """Wait until nothing is left: a worker may still be cleaning up after a job that has just ended."""
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
        with suppress(JobNotFound):  # it has been deleted in the meantime
            if job := store.read_job(summary["job_id"]):
                yield from claims(store, job["job_id"], store.agents(job))
