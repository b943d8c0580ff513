"""The resources of a client in one process: the Celery app, the job store, and the objects that use them."""

from __future__ import annotations

import os
from functools import partial

from celery import Celery

from mirrorneuron.api.control import Control
from mirrorneuron.api.submission import Submission
from mirrorneuron.bundle.prepare import Preparation
from mirrorneuron.diagnostics.finding import RuntimeStatus
from mirrorneuron.diagnostics.job_diagnosis import Diagnosis, diagnose
from mirrorneuron.diagnostics.job_facts import facts_of
from mirrorneuron.diagnostics.runtime_status import read_status
from mirrorneuron.dispatch.celery_app import broker_error, import_all, make_app
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.job import TERMINAL, JobStatus
from mirrorneuron.processes.first_use import FIRST_USE
from mirrorneuron.settings import Settings
from mirrorneuron.store.call_threads import CallThreads
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.rights import Role


class Resources:
    """Made under the lock FIRST_USE, in the process that uses it. The first use of `app` makes the Celery app."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self._settings = settings
        self.store = Store(settings)
        self.preparation = Preparation(settings.max_bundle_bytes, settings.allow_unsandboxed)
        self.long_calls = CallThreads()  #: for what consists of several calls, each in a thread of `store.calls`
        self._app: Celery | None = None
        self._submission: Submission | None = None

    @property
    def app(self) -> Celery:
        with FIRST_USE:
            if self._app is None:
                app = make_app(self._settings)
                import_all(app)
                self._app = app
            return self._app

    @property
    def submission(self) -> Submission:
        with FIRST_USE:
            if self._submission is None:
                # It does not hold this object: a reference cycle would keep connections open.
                chains_of = partial(Chains, self.app, self._settings.redis_namespace)
                queues_here = self.app.conf.mirrorneuron_lists and not self._settings.broker_url
                self._submission = Submission(self.store, chains_of, queues_here=queues_here)
            return self._submission

    @property
    def known_submission(self) -> Submission | None:
        """`submission` if it was used before. Takes no lock, and imports nothing."""
        return self._submission

    @property
    def control(self) -> Control:
        return Control(self.store, lambda plan: Chains(self.app, self._settings.redis_namespace, plan))

    def diagnosis(self, job_id: str) -> Diagnosis:
        """Find out why the job does not move. Raises JobNotFound and BundleNotFound."""
        job = self.store.known_job(job_id)
        error = "" if JobStatus(job["status"]) in TERMINAL else broker_error(self.app)
        return diagnose(facts_of(self.store, job, broker_error=error))

    def runtime_status(self, role: Role = Role.NODE) -> RuntimeStatus:
        """Read the status of the runtime as a user in *role*; an unreachable store is part of it, and not raised."""
        return read_status(self.store, self.app, role)
