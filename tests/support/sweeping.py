"""Keep the sweeper of a node from repairing what a test wants to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mirrorneuron.store.job_store import Store


@contextmanager
def no_sweeps(store: Store) -> Iterator[None]:
    """Hold the sweeper's lease within the block. A sweep that began before the block still finishes."""
    store.client.set(store.keys.sweeper, "a test", ex=600)
    try:
        yield
    finally:
        store.client.delete(store.keys.sweeper)
