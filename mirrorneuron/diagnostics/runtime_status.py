"""Read the status of a runtime for a checkup, in a few round trips to the store and the broker."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Final, TypeVar

from celery import Celery
from redis.exceptions import ResponseError

from mirrorneuron.diagnostics.finding import PoolNeed, RuntimeStatus
from mirrorneuron.dispatch.celery_app import broker_error
from mirrorneuron.errors import BundleNotFound, RuntimeUnavailable
from mirrorneuron.job import NodeInfo, ms_of
from mirrorneuron.store.connection import reaching
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.rights import Role
from mirrorneuron.text import without_password

PINGS: Final = 5
HOUR_MS: Final = 3_600_000
JOBS: Final = 500  # live jobs whose pools are read
BUNDLES: Final = 50  # of these jobs, whose plans are read for the slots that they need

T = TypeVar("T")


def read_status(store: Store, app: Celery, role: Role = Role.NODE) -> RuntimeStatus:
    """Ask the job store and the broker, as a user in *role*.

    A store that cannot be read is part of the status, and not raised.
    """
    settings = store.settings
    url = without_password(settings.redis_url)
    try:
        with reaching(settings.redis_url):
            latency_ms, clock_ms = _times(store)
            cluster = store.server.cluster_error()
            untold: dict[str, str] = {}

            def told(what: str, read: Callable[[], T], otherwise: T) -> T:
                """The result of *read*, or *otherwise* if the server refuses it: that hides no other finding."""
                try:
                    return read()
                except ResponseError as error:
                    untold[what] = str(error)
                    return otherwise

            now_ms, swept = store.now_ms(), told("sweeps", store.sweep_lease.last_sweep_ms, None)
            nodes: list[NodeInfo] = told("nodes", store.registry.nodes, [])
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
                live_jobs=told("jobs", store.index.live_count, 0),
                user=store.server.user,
                role=role,
                refusals=store.server.refusals(role, tuple(settings.pools), broker=not settings.broker_url),
                cluster=cluster,
                needs=told("jobs", lambda: _needs(store), []),
                kept_jobs=told("jobs", store.index.count, 0),
                recent_jobs=told("jobs", lambda: store.index.count_since(now_ms - HOUR_MS), 0),
                retention_s=settings.retention_seconds,
                untold=untold,
            )
    except RuntimeUnavailable as error:
        return RuntimeStatus(url=url, error=error.message, error_hint=error.hint)


def _needs(store: Store) -> list[PoolNeed]:
    """What up to `JOBS` live jobs need of each pool; the slots from the plans of up to `BUNDLES` bundles."""
    live = store.index.live()[:JOBS]
    slots: dict[str, int] = {}
    for digest in sorted(store.index.digests(live))[:BUNDLES]:
        with suppress(BundleNotFound, ResponseError):
            plan = store.plan(digest)[0]
            for pool in plan.pools:
                slots[pool] = max(slots.get(pool, 1), plan.slots(pool))
    found = store.activity.jobs_by_pool(live)
    return [PoolNeed(pool, jobs, waiting, slots.get(pool, 1)) for pool, (jobs, waiting) in sorted(found.items())]


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
