"""The Celery result backend whose results are jobs: `result_backend = "mirrorneuron+redis://host/0"` in any app.

For a job id, the task meta is the job map: `AsyncResult(job_id).state`, `.get()` and Flower work on jobs. All other ids
are handled by Celery's own Redis backend.
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

from mirrorneuron.dispatch.celery_app import App
from mirrorneuron.errors import JobFailed
from mirrorneuron.job import CELERY_STATE, JobMap, JobStatus
from mirrorneuron.server_url import SENTINEL, sentinels_of
from mirrorneuron.settings import Settings
from mirrorneuron.store.connection import MAX_OUTAGE_S, RETRY_S
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.sentinel import primary_of
from mirrorneuron.text import without_password


def task_meta(job: JobMap) -> dict[str, Any]:
    """The Celery task meta of a job. The result of a failed job is JobFailed, of a cancelled one TaskRevokedError."""
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
    """Wakes `AsyncResult.get` at the end of a job.

    The push for an ended job holds no result, so that large records are not sent to every subscriber: the record is
    read here. After a reconnect Celery reads only the keys of its own results: records of jobs are read here as well.

    A lost connection is dropped, and the waiting thread makes a new one, with the patience of `wait_for_job`. Celery
    reconnects in the thread that noticed the loss: if it gives up, that wait raises and all others block without end.
    """

    _away_since: float | None = None  #: monotonic seconds; since when the server is unreachable

    def on_state_change(self, meta: dict[str, Any], message: Any) -> None:
        if "result" not in meta:
            meta = self.backend.get_task_meta(meta["task_id"], cache=False)
        super().on_state_change(meta, message)

    def start(self, initial_task_id: str, **_: Any) -> None:
        """Subscribe to this task, and again to all tasks of a lost connection."""
        with self._locked():
            if self.subscribed_to:
                self.subscribed_to.add(self._get_key_for_task(initial_task_id))
                self._connected()
            else:
                super().start(initial_task_id)

    def drain_events(self, timeout: float | None = None) -> None:
        """Handle one push. Raises RuntimeError when the server was unreachable for MAX_OUTAGE_S."""
        if self._connected():
            super().drain_events(timeout)
        else:
            time.sleep(RETRY_S)

    def _connected(self) -> bool:
        """True if the subscription is connected, or not needed. Reconnects if it was lost."""
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
    """Celery's Redis backend, with job maps as the results of job ids. It holds the job store: `app.backend.store`."""

    ResultConsumer = JobResultConsumer

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        """The connection parameters of *url*. With TLS, certificates are verified unless *url* says otherwise."""
        if url.startswith(SENTINEL):
            kept = {name: value for name, value in defaults.items() if name not in ("host", "port")}
            return {**kept, "sentinels": sentinels_of(url)}
        if url.startswith("rediss://"):
            defaults = {"ssl_cert_reqs": "required", **defaults}
        found: dict[str, Any] = super()._params_from_url(url, defaults)
        if "ssl_check_hostname" in found:  # Celery leaves it a string, and the string "false" is true
            found["ssl_check_hostname"] = to_bool(found["ssl_check_hostname"])  # type: ignore[no-untyped-call]
        return found

    def _get_pool(self, **params: Any) -> Any:
        if "sentinels" not in params:
            return super()._get_pool(**params)
        found = params.pop("sentinels")
        return primary_of(found, redis_class=self._get_client(), **params).connection_pool

    def as_uri(self, include_password: bool = False) -> str:
        """The URL for display. Celery's own method cannot parse several hosts."""
        if not str(self.url).startswith(SENTINEL):
            return str(super().as_uri(include_password))
        return str(self.url) if include_password else without_password(str(self.url))

    @cached_property
    def store(self) -> Store:
        if isinstance(self.app, App):
            return Store(self.app.settings)
        # The backend of another app: the URL is that app's, all other settings come from the environment.
        return Store(Settings.load(redis_url=self._store_url()))

    def _store_url(self) -> str:
        url = str(self.url)
        return f"unix://{url.removeprefix('socket://')}" if url.startswith("socket://") else url

    def _is_job(self, task_id: str) -> bool:
        return self.store.has_job(task_id)

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        job = self.store.read_job(task_id)
        if job is not None:
            return task_meta(job)
        found: dict[str, Any] = super()._get_task_meta_for(task_id)
        return found

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Decode a stored exception. The push of an ended job has no result to decode."""
        return meta if "result" not in meta else super().meta_from_decoded(meta)

    def store_result(self, task_id: str, *args: Any, **kwargs: Any) -> Any:
        """Store a task's result, except for job ids: for a revoked chain head Celery would store FAILURE."""
        return None if self._is_job(task_id) else super().store_result(task_id, *args, **kwargs)

    def forget(self, task_id: str) -> None:
        """Forget a task's result, except for job ids: `cleanup_jobs` deletes the record of a job."""
        if not self._is_job(task_id):
            super().forget(task_id)
