"""What one worker process holds: its store, plans, payloads, children and claims. Made once a process, on first use."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mirrorneuron.bundle.plan import Plan
from mirrorneuron.errors import SettingsError
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import AWAY
from mirrorneuron.store.job_store import Store
from workers.disk.bundle_cache import BundleCache
from workers.disk.slots import Slots
from workers.modules.pool import ModulePool
from workers.recovery.lease_keeper import Keeper
from workers.recovery.task_watchdog import TaskWatchdog
from workers.runners import RUNNERS
from workers.runners.command import cluster_of, mark_of
from workers.runners.live_output import LiveOutput

PLANS: Final = 64  # kept in memory
CACHED_BUNDLES: Final = 8  # largest bundles that the cache folder has room for
MARK_ENDED_AFTER_S: Final = 0.2
PATIENCE: Final = 120  # tries, a second apart, with which a worker rides out a store that is away


log = logging.getLogger(__name__)


class Runtime:
    """The node's side of a worker process. *name* is the worker's name, as in `inspect_nodes`."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.name = name
        own_folder(settings)
        self._ended: deque[str] = deque()
        self.runner = lru_cache(lambda name: RUNNERS[name](settings))  #: the runner that `runner_module` names
        self.plan = lru_cache(maxsize=PLANS)(self._plan)  #: digest -> (plan, payloads digest). Raises BundleNotFound

    @cached_property
    def store(self) -> Store:
        return Store(self.settings, node=self.name, retries=PATIENCE)

    @cached_property
    def keeper(self) -> Keeper:
        return Keeper(self.store, self.settings.claim_lease_ms / 3_000)

    @cached_property
    def task_watchdog(self) -> TaskWatchdog:
        return TaskWatchdog(self._answers)

    @cached_property
    def live_output(self) -> LiveOutput:
        return LiveOutput(self.store, self.settings.logs_max_bytes)

    @cached_property
    def modules(self) -> ModulePool:
        return ModulePool(
            work_root=self.settings.temp_dir / "modules",
            environment=dict([mark_of(self.settings, self.name).split("=", 1)]),
        )

    @cached_property
    def _bundles(self) -> BundleCache:
        return BundleCache(self.settings.temp_dir / "bundles", CACHED_BUNDLES * self.settings.max_bundle_bytes)

    def slots(self, pool: str) -> Slots:
        """The slots of one pool on this worker."""
        return worker_slots(self.settings, self.name, pool)

    def payloads(self, digest: str) -> Path:
        """The unpacked payloads of that digest. Raises BundleNotFound when the store has lost them."""
        return self._bundles.path(digest, lambda: self.store.bundles.payloads(digest))

    def mark_ended(self, job_id: str) -> None:
        """Take an ended job off the index of live ones: with others, a little later, because nobody waits for it."""
        self._ended.append(job_id)
        if len(self._ended) == 1:
            timer = threading.Timer(MARK_ENDED_AFTER_S, self._mark_all_ended)
            timer.daemon = True
            try:
                timer.start()
            except RuntimeError:  # no room for a thread
                self._mark_all_ended()

    def _mark_all_ended(self) -> None:
        ended: list[str] = []
        while self._ended:
            ended.append(self._ended.popleft())
        try:
            self.store.index.mark_ended(ended)
        except Exception:
            log.warning("%s ended jobs stay among the live ones until they are swept", len(ended), exc_info=True)

    def _answers(self) -> bool:
        """Does the store take writes within seconds? Unlike `store`, this does not ride anything out."""
        try:
            self._probe.check_writes()
        except AWAY:
            return False
        return True

    @cached_property
    def _probe(self) -> Store:
        return Store(self.settings)

    def _plan(self, digest: str) -> tuple[Plan, str | None]:
        return self.store.plan(digest)


def own_folder(settings: Settings) -> Path:
    """Make the node's own folder. Raises SettingsError if it cannot be made, or is somebody else's: code runs there."""
    folder = settings.temp_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise SettingsError(f"MIRROR_NEURON_TEMP_DIR: {folder} cannot be used: {error.strerror}") from None
    if owner != os.getuid():
        raise SettingsError(f"MIRROR_NEURON_TEMP_DIR: {folder} belongs to another user")
    return folder


def worker_slots(settings: Settings, worker: str, pool: str) -> Slots:
    """The slots of *pool* on the worker of that name: as the settings say, but no more than it has processes.

    A worker of another cluster on this machine may have the same name and folder: its slots are its own.
    """
    capacity = min(settings.pools.get(pool, _concurrency), _concurrency)
    folder = settings.temp_dir / "slots" / cluster_of(settings) / quote(worker, safe="@") / quote(pool, safe="")
    return Slots(folder, capacity)


_runtimes: dict[int, Runtime] = {}  # by process id: a forked pool process makes its own
_name = socket.gethostname()
_concurrency = 1


def set_worker(name: str, concurrency: int) -> None:
    """Tell this process, and those forked from it, which worker they belong to, and of how many processes it is."""
    global _name, _concurrency
    _name, _concurrency = name, concurrency


def runtime(settings: Settings) -> Runtime:
    """The runtime of this process."""
    pid = os.getpid()
    if pid not in _runtimes:
        _runtimes.clear()
        _runtimes[pid] = Runtime(settings, _name)
    return _runtimes[pid]
