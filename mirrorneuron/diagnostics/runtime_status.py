"""Read the status of a runtime for a checkup, in a few round trips to the store and the broker."""

from __future__ import annotations

import statistics
import time
from importlib.metadata import version
from typing import Final

from celery import Celery

from mirrorneuron.diagnostics.checkup import RuntimeStatus
from mirrorneuron.dispatch.celery_app import broker_error
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.job import ms_of
from mirrorneuron.store.connection import reaching
from mirrorneuron.store.job_store import Store
from mirrorneuron.text import without_password

PINGS: Final = 5


def read_status(store: Store, app: Celery) -> RuntimeStatus:
    """Ask the job store and the broker. A store that cannot be read is part of the status, and not raised."""
    settings = store.settings
    url = without_password(settings.redis_url)
    try:
        with reaching(settings.redis_url):
            latency_ms, clock_ms = _times(store)
            now_ms, swept = store.now_ms(), store.sweep_lease.last_sweep_ms()
            nodes = store.registry.nodes()
            return RuntimeStatus(
                url=url,
                info=store.server.info(),
                saves=store.server.saves(),
                refusal=store.server.refusal(),
                latency_ms=latency_ms,
                clock_ms=clock_ms,
                broker=without_password(settings.broker_url),
                broker_error=broker_error(app),
                version=version("mirrorneuron"),
                pools=tuple(settings.pools),
                nodes=nodes,
                swept_ms=None if swept is None else now_ms - swept,
                up_ms=max((now_ms - ms_of(node["started_at"]) for node in nodes), default=0),
                live_jobs=store.index.live_count(),
            )
    except RuntimeUnavailable as error:
        return RuntimeStatus(url=url, error=error.message, error_hint=error.hint)


def _times(store: Store) -> tuple[float, int]:
    """The median round trip, and how far this machine's clock is ahead of the server's, both in ms."""
    trips: list[float] = []
    clocks: list[float] = []
    store.server.ping()  # connects
    for _ in range(PINGS):
        began, before = time.monotonic(), time.time()
        server_ms = store.now_ms()
        took = time.monotonic() - began
        trips.append(took * 1000)
        clocks.append((before + took / 2) * 1000 - server_ms)
    return statistics.median(trips), round(statistics.median(clocks))
