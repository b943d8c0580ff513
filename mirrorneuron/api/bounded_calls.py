"""Calls of the job store within a time-out, on resources that each process makes for itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

from mirrorneuron.api import arguments
from mirrorneuron.api.resources import Resources
from mirrorneuron.processes.first_use import FIRST_USE, first_use
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import reaching

R = TypeVar("R")


class BoundedCalls:
    """What a client of one cluster calls with. Thread-safe and fork-safe."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings: Settings | None = settings or _load()
        self._parts: Resources | None = None

    @property
    def settings(self) -> Settings:
        if self._settings is None:  # of the default client, before its first call
            self._settings = _load()
        return self._settings

    def _call(self, job_id: str, do: Callable[[Resources], R], seconds: float | None = None) -> R:
        """`_ask` about a job. Raises JobNotFound for a *job_id* that is not valid."""
        arguments.job_id(job_id)
        return self._ask(do, job_id, seconds)

    def _ask(self, do: Callable[[Resources], R], job_id: str | None = None, seconds: float | None = None) -> R:
        """Return `do(resources)`. Raises RuntimeUnavailable after *seconds*, by default those of the settings."""
        with reaching(self.settings.redis_url, job_id):
            resources = self._live_parts()
            return resources.store.calls.run(partial(do, resources), seconds or self.settings.client_timeout_s)

    def _each(self, steps: Callable[[Resources], Iterator[R]]) -> Iterator[R]:
        """What `steps(resources)` yields. Each step is a call with a time-out of its own."""
        found = steps(self._live_parts())
        while rows := self._ask(lambda _: list(islice(found, 1))):
            yield from rows

    def _live_parts(self) -> Resources:
        # After a fork, connections, threads and Celery's pools stay with the parent.
        parts = self._parts
        if parts is None or parts.pid != os.getpid():
            with FIRST_USE:
                parts = self._parts
                if parts is None or parts.pid != os.getpid():
                    parts = self._parts = Resources(self.settings)
        return parts


def _load() -> Settings:
    with first_use("settings"):  # the checks import modules, and `tempfile` has a lock of its own
        return Settings.load()
