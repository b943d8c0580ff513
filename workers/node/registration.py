"""The registration of a worker in the store (name, pools, slots in use), renewed by a heartbeat."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import platform
import secrets
import socket
import tempfile
import threading
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from celery import bootsteps, signals
from redis.exceptions import RedisError

from mirrorneuron.job import iso
from mirrorneuron.pools import LIGHT, pool_of
from mirrorneuron.processes import identity
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

HEARTBEAT_S: Final = 4.0
KEPT_S: Final = 10  # a registration expires this long after its last heartbeat

PLANS: Final = 16  # number of plans that the sweeper keeps in memory

log = logging.getLogger(__name__)


class NodeStep(bootsteps.StartStopStep):
    """Registers the worker when it starts, renews the registration by heartbeats, and removes it when the worker ends.

    The heartbeat is a thread of the worker's main process, so a busy solo worker still shows as alive. Two more threads
    run the sweeper (active on one worker at a time) and the consumer watchdog, and one looks for a shortage.
    """

    requires = ("celery.worker.components:Pool",)

    _holder = ""  #: of the worker's name

    def __init__(self, worker: Any, **_: Any) -> None:
        if worker.pool_cls.is_green:
            raise SystemExit(f"the pool {worker.pool_cls.__module__} is not supported: use -P prefork, solo or threads")
        settings: Settings = worker.app.settings
        ensure_temp_folder(runtime.own_folder(settings))
        self._holder = _this_process()
        own_mark = mark_of(settings, worker.hostname)
        if problem := self._name_problem(settings, worker.hostname):
            # Two workers of one name would overwrite each other's registration, and answer for each other.
            name, worker.hostname = worker.hostname, f"{worker.hostname}-{os.getpid()}"
            log.warning(
                "%s named %s; this one is %s now: start each node with its own --name", problem, name, worker.hostname
            )
            own_mark = mark_of(settings, worker.hostname)
            _is_alone(runtime.own_folder(settings), own_mark)
        # Commands of an earlier process of this worker: other workers run their agents again.
        kill_with(own_mark, prefix=True)
        runtime.set_worker(worker.hostname, worker.concurrency)  # before the pool forks
        gc.freeze()  # a collection in a pool process would write to each object of this one, and copy its page
        signals.worker_shutting_down.connect(_begin_stop)
        signals.worker_shutdown.connect(self._ended, weak=False)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sweeper: Sweeper | None = None

    def _name_problem(self, settings: Settings, name: str) -> str:
        """The first words of a warning if another worker has *name*; "" if this one has it now."""
        if not _is_alone(runtime.own_folder(settings), mark_of(settings, name)):
            return "another worker on this machine is"
        store = Store(settings).impatient()
        try:
            holder = store.registry.hold_name(name, self._holder, KEPT_S)
            if holder != self._holder and _is_dead(holder):
                store.registry.release_name(name, holder)
                holder = store.registry.hold_name(name, self._holder, KEPT_S)
        except RedisError as error:
            log.warning("cannot find out if another worker is named %s: %s", name, error)
            return ""
        finally:
            store.close()
        return "" if holder == self._holder else "another worker is"

    def start(self, worker: Any) -> None:
        settings: Settings = worker.app.settings
        STOP.allow(settings.stop_grace_seconds)
        store = Store(settings, node=worker.hostname)
        node = _describe(worker, settings)
        slots = {pool: runtime.worker_slots(settings, worker.hostname, pool) for pool in node["pools"] if pool != LIGHT}
        self._sweeper = Sweeper(store, worker.app, lru_cache(maxsize=PLANS)(lambda digest: store.plan(digest)[0]))
        check = store.check_writes if not settings.broker_url else lambda: None
        depth = store.registry.queue_length if not settings.broker_url else None
        watch = ConsumerWatchdog(worker, settings.stop_grace_seconds, check, depth)
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
                    if store.registry.hold_name(node["name"], self._holder, KEPT_S) == self._holder:
                        store.registry.register(node, KEPT_S)
                    else:  # this worker could not reach the store when it started
                        log.warning("another worker is named %s: start each node with its own --name", node["name"])
            except UNREACHABLE as error:
                log.warning("the heartbeat did not reach the job store: %s", error)
            except Exception:
                log.exception("the heartbeat failed")
            if self._stop.wait(HEARTBEAT_S):
                break
        try:
            if store.registry.release_name(node["name"], self._holder):
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


def ensure_temp_folder(folder: Path) -> None:
    """Where the system has no folder for temporary files, as on a read-only root, set TMPDIR to one in *folder*."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        own = folder / "tmp"
        own.mkdir(mode=0o700, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(own)


def _this_process() -> str:
    """The identity of this process: its process namespace, its pid and its start."""
    found = identity.find(os.getpid())
    return f"{_process_namespace()} {os.getpid()} {found.born if found else secrets.token_hex(8)}"


def _is_dead(holder: str) -> bool:
    """True if the process `_this_process` described as *holder* ran on this machine and has ended."""
    namespace, _, process = holder.partition(" ")
    pid, _, born = process.partition(" ")
    same = namespace == _process_namespace() and pid.isdecimal()
    return same and not identity.alive(identity.Process(pid=int(pid), born=born))


def _process_namespace() -> str:
    """The host, and on Linux the namespace of its process ids: containers may share a host name."""
    try:
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _unhealthy() -> dict[str, str] | None:
    found = BOARD.present()
    return {"reason": found[0], "since": iso(int(found[1] * 1000))} if found else None


def _begin_stop(**_: Any) -> None:
    STOP.begun.set()


def _describe(worker: Any, settings: Settings) -> dict[str, Any]:
    names = [str(name) for name in worker.app.amqp.queues.consume_from]
    # By the queues and not by the settings: `-Q` may name the queue of any pool.
    served = [pool for name in names if (pool := pool_of(settings.redis_namespace, name)) is not None]
    slots = worker.pool.info["max-concurrency"]  # `worker.concurrency` counts the processors for a solo worker too
    return {
        "name": worker.hostname,
        "host": socket.gethostname(),
        "pid": os.getpid(),
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
