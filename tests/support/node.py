"""A real runtime node for tests: a light worker and a worker for the pool `default`, ended by their pids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from celery.platforms import set_pdeathsig

from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.settings import PREFIX, Settings
from mirrorneuron.store.job_store import Store
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


class RealNode:
    """Celery workers in separate processes, on one namespace of one server.

    `settings` and `env` let clients and subprocesses use the same namespace. *app* is the module of the Celery app.
    """

    def __init__(self, folder: Path, settings: Settings, app: str = "workers") -> None:
        self.folder = folder
        self.app = app
        self.settings = settings
        self.env = environment(settings)
        self.log = folder / "node.log"
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> dict[str, int]:
        """Pool -> pid of its worker."""
        return {pool: worker.pid for pool, worker in self._workers.items()}

    def start(self) -> RealNode:
        """Start the workers and wait until both are registered."""
        for pool in (LIGHT, "default"):
            self._spawn(pool)
        store = Store(self.settings)
        wait_until(lambda: self._registered(store), timeout=60)
        store.client.close()
        return self

    def end(self, pool: str) -> None:
        """Kill one worker with all its children, like a power cut."""
        worker = self._workers.pop(pool)
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def restart(self, pool: str, **env: str) -> None:
        """Kill the worker of *pool* if it runs, and start a new one, with more environment variables if given."""
        if pool in self._workers:
            self.end(pool)
        self._spawn(pool, env=env)

    def ended(self, pool: str) -> bool:
        """True if the worker of *pool* has exited or was killed."""
        return self._workers[pool].poll() is not None

    def ask_to_stop(self, pool: str) -> subprocess.Popen[bytes]:
        """Send TERM to one worker and return its process, which may still run. Another worker may take its place."""
        worker = self._workers.pop(pool)
        worker.terminate()
        self._stopping.append(worker)
        return worker

    def replace(self, pool: str) -> subprocess.Popen[bytes]:
        """Start another worker for *pool*, then ask the old one to stop, and return the process of the old one."""
        store = Store(self.settings)
        wait_until(lambda: self._registered(store), timeout=60)
        old = self._workers.pop(pool)
        self._spawn(pool, f"-{old.pid}")
        wait_until(lambda: self._registered(store), timeout=60)
        store.client.close()
        self._stopping.append(old)
        old.terminate()
        return old

    def add(self, pool: str, suffix: str = "", *, slots: int | None = None, **env: str) -> None:
        """Start one more worker for *pool*, with a name that ends with *suffix*; its *slots* need no setting."""
        self._spawn(pool, suffix, keep=f"{pool}{suffix}", slots=slots, env=env)

    def double(self, pool: str, **env: str) -> None:
        """Start a second worker with the name of the worker of *pool*, which continues to run."""
        self._stopping.append(self._workers[pool])
        self._spawn(pool, env=env)

    def stop(self) -> None:
        """Kill all workers at once. A warm shutdown would take seconds, and other tests cover it."""
        for worker in [*self._workers.values(), *self._stopping]:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        self._workers.clear()
        self._stopping.clear()

    def __enter__(self) -> RealNode:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(
        self,
        pool: str,
        suffix: str = "",
        *,
        env: Mapping[str, str] = {},
        keep: str = "",
        slots: int | None = None,
    ) -> None:
        prefork = ("-P", "prefork", "-c", str(slots or self.settings.pools.get(pool)))
        kind = ("-P", "solo") if pool == LIGHT else prefork
        name = f"{pool}@{self.settings.redis_namespace}{suffix}"
        quiet = ("--without-gossip", "--without-mingle", "-E", "-l", "INFO")
        celery = (sys.executable, "-m", "celery", "-A", self.app, "worker")
        with self.log.open("ab") as log:
            self._workers[keep or pool] = subprocess.Popen(
                [*celery, "-Q", queue(self.settings.redis_namespace, pool), "-n", name, *kind, *quiet],
                cwd=ROOT,
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C does not reach it, but it dies with a test run that is killed.
                start_new_session=True,
                preexec_fn=lambda: set_pdeathsig("SIGKILL"),
            )

    def _registered(self, store: Store) -> bool:
        for pool, worker in self._workers.items():
            assert worker.poll() is None, f"the worker of {pool} ended:\n{self.log.read_text(errors='replace')}"
        return {node["pid"] for node in store.registry.nodes()} >= {worker.pid for worker in self._workers.values()}


def environment(settings: Settings, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a subprocess that uses *settings*, without MirrorNeuron variables of the developer."""
    clean = {name: value for name, value in base.items() if not name.startswith(PREFIX)}
    return clean | {f"{PREFIX}{name.upper()}": str(value) for name, value in _scalars(settings).items()}


def _scalars(settings: Settings) -> dict[str, object]:
    chosen = settings.model_dump(exclude_unset=True)
    if pools := chosen.pop("executor_pool_capacities", None):
        chosen["executor_pool_capacities"] = ",".join(f"{name}={slots}" for name, slots in pools.items())
    return chosen
