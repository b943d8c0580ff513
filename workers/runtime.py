"""The resources of one worker process: store, plans, payloads, module processes, claims. Created on first use."""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
from collections import deque
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mirrorneuron.bundle.plan import Plan
from mirrorneuron.errors import SettingsError
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import UNREACHABLE
from mirrorneuron.store.job_store import Store
from workers.disk.bundle_cache import BundleCache
from workers.disk.slots import Slots
from workers.lifecycle.inherited_state import clean_signals
from workers.modules.pool import ModulePool
from workers.recovery.lease_keeper import LeaseKeeper
from workers.recovery.task_watchdog import TaskWatchdog
from workers.runners.command import cluster_of, mark_of
from workers.runners.live_output import LiveOutput
from workers.runners.registry import RUNNERS

PLANS: Final = 64  # most plans kept in memory
CACHED_BUNDLES: Final = 8  # size of the cache folder, as a multiple of MIRROR_NEURON_MAX_BUNDLE_BYTES
MARK_ENDED_AFTER_S: Final = 0.2
STORE_RETRIES: Final = 120  # retries, one second apart, while the store is unavailable


log = logging.getLogger(__name__)


class Runtime:
    """The resources of one worker process. *name* is the worker's name, as `inspect_nodes` reports it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.name = name
        own_folder(settings)
        self._ended: deque[str] = deque()
        self.runner = lru_cache(lambda name: RUNNERS[name](settings))  #: by the name in `runner_module`
        self.plan = lru_cache(maxsize=PLANS)(self._plan)  #: digest -> (plan, payloads digest). Raises BundleNotFound
        self.slots = lru_cache(lambda pool: worker_slots(settings, name, pool))  #: the slots of a pool on this worker

    @cached_property
    def store(self) -> Store:
        return Store(self.settings, node=self.name, retries=STORE_RETRIES)

    @cached_property
    def impatient_store(self) -> Store:
        """For what a run can do without: one short attempt."""
        return self.store.impatient()

    @cached_property
    def keeper(self) -> LeaseKeeper:
        return LeaseKeeper(self.store, self.settings.claim_lease_ms / 3_000)

    @cached_property
    def task_watchdog(self) -> TaskWatchdog:
        return TaskWatchdog(self._store_available)

    @cached_property
    def live_output(self) -> LiveOutput:
        return LiveOutput(self.store, self.settings.logs_max_bytes)

    @cached_property
    def modules(self) -> ModulePool:
        return ModulePool(
            work_root=self.settings.temp_dir / "modules",
            environment=dict([mark_of(self.settings, self.name).split("=", 1)]),
            late_output=self.live_output.of,
        )

    @cached_property
    def _bundles(self) -> BundleCache:
        return BundleCache(self.settings.temp_dir / "bundles", CACHED_BUNDLES * self.settings.max_bundle_bytes)

    def payloads(self, digest: str) -> Path:
        """The folder of the unpacked payloads *digest*. Raises BundleNotFound if the store has lost them."""
        return self._bundles.path(digest, lambda: self.store.bundles.payloads(digest))

    def mark_ended(self, job_id: str) -> None:
        """Remove an ended job from the live index. Jobs are collected for `MARK_ENDED_AFTER_S` and removed together."""
        self._ended.append(job_id)
        if len(self._ended) == 1:
            timer = threading.Timer(MARK_ENDED_AFTER_S, self._mark_all_ended)
            timer.daemon = True
            try:
                timer.start()
            except RuntimeError:  # the OS refuses a thread
                self._mark_all_ended()

    def _mark_all_ended(self) -> None:
        ended: list[str] = []
        while self._ended:
            ended.append(self._ended.popleft())
        try:
            self.store.index.mark_ended(ended)
        except Exception:
            log.warning("cannot remove %s ended jobs from the live index; the sweeper will", len(ended), exc_info=True)

    def _store_available(self) -> bool:
        """True if the store accepts writes within seconds. Unlike `store`, this does not retry for minutes."""
        try:
            self._probe.check_writes()
        except UNREACHABLE:
            return False
        return True

    @cached_property
    def _probe(self) -> Store:
        return Store(self.settings)

    def _plan(self, digest: str) -> tuple[Plan, str | None]:
        return self.store.plan(digest)


def own_folder(settings: Settings) -> Path:
    """Create the node's folder. Code runs there, so SettingsError is raised if other users can write to it.

    Raises SettingsError too if the folder cannot be created.
    """
    folder = settings.temp_dir
    try:
        problem = _strange_link(folder)
        if not problem:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            problem = _shared(folder)
    except OSError as error:
        raise SettingsError(f"MIRROR_NEURON_TEMP_DIR: cannot use the folder {folder}: {error.strerror}") from None
    if problem:
        raise SettingsError(f"MIRROR_NEURON_TEMP_DIR: {problem}; choose another folder")
    return folder


def _strange_link(folder: Path) -> str:
    """Why another user may put another folder in the place of *folder*; "" if nobody may."""
    for place in (folder, *folder.parents):
        if place.is_symlink() and place.lstat().st_uid not in (0, os.getuid()):
            return f"{folder} is reached through {place}, a link that belongs to another user"
    return ""


def _shared(folder: Path) -> str:
    """Why another user may change what is in *folder*; "" if nobody may."""
    found = folder.stat()
    if found.st_uid != os.getuid():
        return f"{folder} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        return f"other users may write to {folder} (mode {stat.S_IMODE(found.st_mode):o}; chmod go-w makes it safe)"
    return ""


def worker_slots(settings: Settings, worker: str, pool: str) -> Slots:
    """The slots of *pool* on *worker*: the capacity in the settings, but at most one slot per pool process.

    The folder's path contains the cluster: a worker of another cluster on this machine may have the same name.
    """
    capacity = min(settings.pools.get(pool, _concurrency), _concurrency)
    folder = settings.temp_dir / "slots" / cluster_of(settings) / quote(worker, safe="@") / quote(pool, safe="")
    return Slots(folder, capacity)


_runtimes: dict[int, Runtime] = {}  # by process id, because a forked pool process must create its own
_name = socket.gethostname()
_concurrency = 1


def set_worker(name: str, concurrency: int) -> None:
    """Set the worker name and the number of pool processes, for this process and those forked from it."""
    global _name, _concurrency
    _name, _concurrency = name, concurrency


def runtime(settings: Settings) -> Runtime:
    """The runtime of this process."""
    pid = os.getpid()
    if pid not in _runtimes:
        clean_signals()  # here, because billiard ignores SIGINT after Celery's signal `worker_process_init`
        _runtimes.clear()
        _runtimes[pid] = Runtime(settings, _name)
    return _runtimes[pid]
