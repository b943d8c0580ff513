"""Rest for what the sweeper of a node would mend while a test looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mirrorneuron.store.job_store import Store


@contextmanager
def no_sweeps(store: Store) -> Iterator[None]:
    """Hold the sweeper's lease within the block. A sweep that has begun before goes on to its end."""
    store.client.set(store.keys.sweeper, "a test", ex=600)
    try:
        yield
    finally:
        store.client.delete(store.keys.sweeper)
