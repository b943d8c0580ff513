"""A worker's registration: who it is, which pools it serves and what is in use, renewed by a heartbeat."""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
import time
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

from celery import bootsteps

from mirrorneuron.connection import AWAY
from mirrorneuron.job import iso
from mirrorneuron.keys import LIGHT, queue
from mirrorneuron.settings import Settings
from mirrorneuron.store import Store
from workers import runtime
from workers.runners.command import MARKER
from workers.runners.strays import kill_with
from workers.slots import Slots
from workers.sweeper import Sweeper

HEARTBEAT_S: Final = 2.0
KEPT_S: Final = 10  # a registration outlives its last heartbeat by this

PLANS: Final = 16  # that the sweeper keeps in memory

log = logging.getLogger(__name__)


class NodeStep(bootsteps.StartStopStep):
    """Registers the worker when it starts, renews the registration while it lives, and removes it when it stops.

    It beats in the worker's main process, in a thread: a busy solo worker still shows as alive. So does the sweeper,
    which does its work on one worker of all.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **_: Any) -> None:
        runtime.set_worker(worker.hostname, worker.concurrency)  # before the pool forks
        # What an earlier life of this worker left running: its runs have been taken up, or soon are.
        kill_with(f"{MARKER}={worker.hostname}:", prefix=True)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sweeper: Sweeper | None = None

    def start(self, worker: Any) -> None:
        settings: Settings = worker.app.conf.mirrorneuron_settings
        store = Store(settings, node=worker.hostname)
        node = _describe(worker, settings)
        slots = {pool: runtime.worker_slots(settings, worker.hostname, pool) for pool in node["pools"] if pool != LIGHT}
        self._sweeper = Sweeper(store, worker.app, lru_cache(maxsize=PLANS)(lambda digest: store.plan(digest)[0]))
        self._threads = [
            threading.Thread(target=self._beat, args=(store, node, slots), name="heartbeat", daemon=True),
            threading.Thread(target=self._sweeper.run, name="sweeper", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, _worker: Any) -> None:
        self._stop.set()
        if self._sweeper is not None:
            self._sweeper.stop()
        for thread in self._threads:
            thread.join(timeout=2 * HEARTBEAT_S)

    terminate = stop

    def _beat(self, store: Store, node: dict[str, Any], slots: dict[str, Slots]) -> None:
        while True:
            try:
                for pool, own in slots.items():
                    node["pools"][pool] |= {"slots": own.capacity, "in_use": own.in_use()}
                store.register(node, KEPT_S)
            except AWAY as error:
                log.warning("the heartbeat did not reach the job store: %s", error)
            except Exception:
                log.exception("the heartbeat failed")
            if self._stop.wait(HEARTBEAT_S):
                break
        try:
            store.unregister(node["name"])
        except Exception:  # it expires by itself
            log.debug("the registration was not removed", exc_info=True)


def _describe(worker: Any, settings: Settings) -> dict[str, Any]:
    names = [str(name) for name in worker.app.amqp.queues.consume_from]
    pools = {pool: queue(settings.redis_namespace, pool) for pool in (LIGHT, *settings.pools)}
    served = [pool for pool, name in pools.items() if name in names]
    slots = worker.pool.info["max-concurrency"]  # `worker.concurrency` counts the processors for a solo worker too
    return {
        "name": worker.hostname,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": iso(time.time_ns() // 1_000_000),
        "queues": names,
        "pools": {pool: {"slots": slots, "in_use": 0} for pool in served},
        "hardware": {
            "cpus": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "machine": platform.machine(),
            "system": platform.system(),
        },
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("mirrorneuron", "celery")}},
    }
