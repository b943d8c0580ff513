"""The Celery result backend whose results are jobs: `result_backend = "mirrorneuron+redis://host/0"` in any app.

For a job id, the task meta is the job map: `AsyncResult(job_id).state`, `.get()` and Flower work on jobs. Everything
else is Celery's own Redis backend.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

from celery import states
from celery.backends.redis import RedisBackend
from celery.backends.redis import ResultConsumer as RedisResultConsumer
from celery.exceptions import TaskRevokedError
from redis.connection import to_bool
from redis.sentinel import Sentinel

from mirrorneuron.errors import JobFailed
from mirrorneuron.job import CELERY_STATE, JobMap, JobStatus
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import MAX_OUTAGE_S, RETRY_S, SENTINEL, sentinel_of
from mirrorneuron.store.job_store import Store
from mirrorneuron.text import without_password


def task_meta(job: JobMap) -> dict[str, Any]:
    """The Celery meta of a job. A failed job's result raises JobFailed, a cancelled one's TaskRevokedError."""
    state = CELERY_STATE[JobStatus(job["status"])]
    result: Any = job
    if state == states.FAILURE:
        result = JobFailed(f"job {job['job_id']} failed: {(job['result'] or {}).get('error')}", job)
    elif state == states.REVOKED:
        result = TaskRevokedError(f"job {job['job_id']} was cancelled")
    return {
        "task_id": job["job_id"],
        "status": state,
        "result": result,
        "traceback": None,
        "children": [],
        "date_done": job["finished_at"],
    }


class JobResultConsumer(RedisResultConsumer):
    """Wakes waiters at the end of a job.

    What is published for a job is a notice without the result, so that a large record is not pushed to everybody; the
    record is read again here. After a reconnect Celery reads the keys of its own results only: jobs are read here.

    A lost connection is forgotten, and whoever waits makes a new one, as patiently as `wait_for_job`. Celery makes it
    where the loss is noticed: when it gives up there, one wait ends with an error and all others sleep for ever.
    """

    _away_since: float | None = None  #: monotonic; while the server does not answer

    def on_state_change(self, meta: dict[str, Any], message: Any) -> None:
        if "result" not in meta:
            meta = self.backend.get_task_meta(meta["task_id"], cache=False)
        super().on_state_change(meta, message)

    def start(self, initial_task_id: str, **_: Any) -> None:
        """Listen for this task, and for all that were subscribed to on a connection that is lost."""
        with self._locked():
            if self.subscribed_to:
                self.subscribed_to.add(self._get_key_for_task(initial_task_id))
                self._listens()
            else:
                super().start(initial_task_id)

    def drain_events(self, timeout: float | None = None) -> None:
        """Take one notice. Raises RuntimeError when the server has not answered for MAX_OUTAGE_S."""
        if self._listens():
            super().drain_events(timeout)
        else:
            time.sleep(RETRY_S)

    def _listens(self) -> bool:
        """Is there a connection, or need there be none? Makes one where there is none."""
        with self._locked():
            if self._pubsub is not None or not self.subscribed_to:
                return True
            try:
                self._reconnect_pubsub()
            except self._connection_errors as error:
                self._reconnect()
                self._away_since = self._away_since or time.monotonic()
                if time.monotonic() - self._away_since > MAX_OUTAGE_S:
                    raise RuntimeError(f"the result backend does not answer: {error}") from error
            return self._pubsub is not None

    def _reconnect(self) -> None:
        self._pubsub = None

    def _reconnect_pubsub(self) -> None:
        super()._reconnect_pubsub()
        self._away_since = None
        prefix = len(self.backend.task_keyprefix)
        for key in list(self.subscribed_to):
            task_id = key[prefix:]
            meta = self.backend.get_task_meta(task_id.decode() if isinstance(task_id, bytes) else task_id, cache=False)
            if meta["status"] in states.READY_STATES:
                self.on_state_change(meta, None)


class JobMapBackend(RedisBackend):
    """Celery's Redis backend, with job maps as the results of job ids. It owns the job store: `app.backend.store`."""

    ResultConsumer = JobResultConsumer

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        """What *url* says about the connection. With TLS, certificates are required if nobody says otherwise."""
        if url.startswith(SENTINEL):
            hosts, service, more = sentinel_of(url)
            kept = {name: value for name, value in defaults.items() if name not in ("host", "port")}
            return {**kept, **more, "sentinels": hosts, "service": service}
        if url.startswith("rediss://"):
            defaults = {"ssl_cert_reqs": "required", **defaults}
        found: dict[str, Any] = super()._params_from_url(url, defaults)
        if "ssl_check_hostname" in found:  # Celery leaves it a text, and the text "false" is true
            found["ssl_check_hostname"] = to_bool(found["ssl_check_hostname"])  # type: ignore[no-untyped-call]
        return found

    def _get_pool(self, **params: Any) -> Any:
        if "sentinels" not in params:
            return super()._get_pool(**params)
        hosts, service = params.pop("sentinels"), params.pop("service")
        return Sentinel(hosts).master_for(service, redis_class=self._get_client(), **params).connection_pool  # type: ignore[no-untyped-call]

    def as_uri(self, include_password: bool = False) -> str:
        """The URL as it may be shown. Celery's own way to say it cannot read several hosts."""
        if not str(self.url).startswith(SENTINEL):
            return str(super().as_uri(include_password))
        return str(self.url) if include_password else without_password(str(self.url))

    @cached_property
    def store(self) -> Store:
        settings = self.app.conf.get("mirrorneuron_settings")
        if settings is None:  # another app's backend: the URL is its own, all else comes from the environment
            settings = Settings.load(redis_url=self._store_url())
        return Store(settings)

    def _store_url(self) -> str:
        url = str(self.url)
        return f"unix://{url.removeprefix('socket://')}" if url.startswith("socket://") else url

    def _is_job(self, task_id: str) -> bool:
        return self.store.has_job(task_id)

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        job = self.store.job(task_id)
        if job is not None:
            return task_meta(job)
        found: dict[str, Any] = super()._get_task_meta_for(task_id)
        return found

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Turn a stored exception into one that can be raised; a notice of a job's end holds none to turn."""
        return meta if "result" not in meta else super().meta_from_decoded(meta)

    def store_result(self, task_id: str, *args: Any, **kwargs: Any) -> Any:
        """Store a task's result. Of a job id nothing is stored: Celery would write FAILURE for a revoked head."""
        return None if self._is_job(task_id) else super().store_result(task_id, *args, **kwargs)

    def forget(self, task_id: str) -> None:
        """Forget a task's result. A job's record is no result to be forgotten: `cleanup_jobs` deletes it."""
        if not self._is_job(task_id):
            super().forget(task_id)
