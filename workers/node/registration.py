"""The registration of a worker in the store (name, pools, slots in use), renewed by a heartbeat."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import socket
import threading
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from celery import bootsteps, signals

from mirrorneuron.job import iso
from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.processes.by_environment import kill_with
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import UNREACHABLE
from mirrorneuron.store.job_store import Store
from workers import runtime
from workers.disk.slots import Slots
from workers.lifecycle.fork_guard import FORKS
from workers.lifecycle.shortage import BOARD
from workers.lifecycle.shutdown import STOP
from workers.node.shortage_watch import ShortageWatch
from workers.recovery.consumer_watchdog import ConsumerWatchdog
from workers.recovery.sweeper import Sweeper
from workers.runners.command import mark_of

HEARTBEAT_S: Final = 2.0
KEPT_S: Final = 10  # a registration expires this long after its last heartbeat

PLANS: Final = 16  # number of plans that the sweeper keeps in memory

log = logging.getLogger(__name__)


class NodeStep(bootsteps.StartStopStep):
    """Registers the worker when it starts, renews the registration by heartbeats, and removes it when the worker ends.

    The heartbeat is a thread of the worker's main process, so a busy solo worker still shows as alive. Two more threads
    run the sweeper (active on one worker at a time) and the consumer watchdog, and one looks for a shortage.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **_: Any) -> None:
        runtime.set_worker(worker.hostname, worker.concurrency)  # before the pool forks
        settings: Settings = worker.app.settings
        mark = mark_of(settings, worker.hostname)
        if _is_alone(runtime.own_folder(settings), mark):
            # Commands of an earlier process of this worker: other workers run their agents again.
            kill_with(mark, prefix=True)
        else:
            log.warning(
                "another worker on this machine is named %s: start each node with its own --name", worker.hostname
            )
        signals.worker_shutting_down.connect(_begin_stop)
        signals.worker_shutdown.connect(self._ended, weak=False)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sweeper: Sweeper | None = None

    def start(self, worker: Any) -> None:
        settings: Settings = worker.app.settings
        STOP.allow(settings.stop_grace_seconds)
        store = Store(settings, node=worker.hostname)
        node = _describe(worker, settings)
        slots = {pool: runtime.worker_slots(settings, worker.hostname, pool) for pool in node["pools"] if pool != LIGHT}
        self._sweeper = Sweeper(store, worker.app, lru_cache(maxsize=PLANS)(lambda digest: store.plan(digest)[0]))
        check = store.check_writes if not settings.broker_url else lambda: None
        watch = ConsumerWatchdog(worker, settings.stop_grace_seconds, check)
        self._threads = [
            threading.Thread(target=self._beat, args=(store, node, slots), name="heartbeat", daemon=True),
            threading.Thread(target=self._sweeper.run, name="sweeper", daemon=True),
            threading.Thread(target=watch.run, args=(self._stop,), name="watch", daemon=True),
            threading.Thread(target=ShortageWatch(worker).run, args=(self._stop,), name="shortage", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, _worker: Any) -> None:
        """Stop the sweeper. Heartbeats continue while runs finish, so that the worker does not count as dead."""
        if self._sweeper is not None:
            self._sweeper.stop()

    terminate = stop

    def _ended(self, **_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=2 * HEARTBEAT_S)

    def _beat(self, store: Store, node: dict[str, Any], slots: dict[str, Slots]) -> None:
        while True:
            try:
                with FORKS.held_off():
                    node["stopping"] = STOP.begun.is_set()
                    node["unhealthy"] = _unhealthy()
                    for pool, own in slots.items():
                        node["pools"][pool] |= {"slots": own.capacity, "in_use": own.in_use()}
                    store.registry.register(node, KEPT_S)
            except UNREACHABLE as error:
                log.warning("the heartbeat did not reach the job store: %s", error)
            except Exception:
                log.exception("the heartbeat failed")
            if self._stop.wait(HEARTBEAT_S):
                break
        try:
            store.registry.unregister(node["name"])
        except Exception:  # the registration expires anyway
            log.debug("the registration could not be removed; it expires", exc_info=True)


def _is_alone(folder: Path, mark: str) -> bool:
    """True if this is the only worker of its name on the machine. Holds a lock for that until the process ends.

    The kernel releases the lock with the process; its children do not inherit it.
    """
    lives = folder / "lives"
    lives.mkdir(exist_ok=True)
    held = os.open(lives / quote(mark, safe="@="), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # never closed
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return False
    return True


def _unhealthy() -> dict[str, str] | None:
    found = BOARD.present()
    return {"reason": found[0], "since": iso(int(found[1] * 1000))} if found else None


def _begin_stop(**_: Any) -> None:
    STOP.begun.set()


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
