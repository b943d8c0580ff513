"""The resources of a client in one process: the Celery app, the job store, and the objects that use them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, partial

from celery import Celery

from mirrorneuron.api.control import Control
from mirrorneuron.api.submission import Submission
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.diagnostics.checkup import RuntimeStatus
from mirrorneuron.diagnostics.job_diagnosis import Diagnosis, diagnose
from mirrorneuron.diagnostics.job_facts import facts_of
from mirrorneuron.diagnostics.runtime_status import read_status
from mirrorneuron.dispatch.celery_app import broker_error, make_app
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.job import TERMINAL, JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store.call_threads import CallThreads
from mirrorneuron.store.job_store import Store


class Resources:
    """Each resource is created on first use."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self._settings = settings

    @cached_property
    def app(self) -> Celery:
        return make_app(self._settings)

    @cached_property
    def store(self) -> Store:
        return Store(self._settings)

    @cached_property
    def long_calls(self) -> CallThreads:
        """Threads for what consists of several calls, each of which takes a thread of `store.calls`."""
        return CallThreads()

    @cached_property
    def control(self) -> Control:
        return Control(self.store, self._chains_of)

    def diagnosis(self, job_id: str) -> Diagnosis:
        """Find out why the job does not move. Raises JobNotFound and BundleNotFound."""
        job = self.store.known_job(job_id)
        error = "" if JobStatus(job["status"]) in TERMINAL else broker_error(self.app)
        return diagnose(facts_of(self.store, job, broker_error=error))

    def runtime_status(self) -> RuntimeStatus:
        """Read the status of the runtime; an unreachable store is part of it, and not raised."""
        return read_status(self.store, self.app)

    @cached_property
    def submission(self) -> Submission:
        return Submission(self.store, self._chains_of)

    @property
    def _chains_of(self) -> Callable[[Plan], Chains]:
        """Makes the Chains of a plan. It does not hold this object: a reference cycle would keep connections open."""
        return partial(Chains, self.app, self._settings.redis_namespace)
