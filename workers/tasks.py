"""The Celery app of the nodes and its three tasks. Each is a wake-up call: whether there is anything to do, the store
knows.
"""

from __future__ import annotations

from typing import Any

from celery import Task, signals

from mirrorneuron.dispatch.celery_app import DRAIN, OPEN_JOB, VISIT, make_app
from mirrorneuron.settings import Settings
from mirrorneuron.store.protocol import JobRef
from workers.celery_overrides.batched_events import EventsInBatches
from workers.celery_overrides.undecodable_messages import SurviveUndecodable
from workers.node.registration import NodeStep
from workers.runtime import Runtime, runtime
from workers.visit import Start, visit

app = make_app(Settings.load())
app.steps["worker"].add(NodeStep)
app.steps["consumer"].update((EventsInBatches, SurviveUndecodable))
if app.conf.mirrorneuron_lists:
    app.Task.Request = "workers.celery_overrides.no_ack_request:NoAckRequest"


def _runtime() -> Runtime:
    return runtime(app.conf.mirrorneuron_settings)


def _visit(task: Task[Any, Any], job: JobRef, start: Start) -> None:
    _runtime().task_watchdog.begin()
    visit(_runtime(), app, job, task.request.chain, start)


@signals.task_postrun.connect
def _over(**_: Any) -> None:
    """Celery has published what comes after the task."""
    _runtime().task_watchdog.over()


@app.task(bind=True, name=OPEN_JOB)
def open_job(self: Task[Any, Any], job_id: str, run: int, digest: str) -> None:
    """Open a pending job, and run what is light and ready."""
    _visit(self, JobRef(job_id, run, digest), Start(opening=True))


@app.task(bind=True, name=VISIT)
def visit_agent(self: Task[Any, Any], job_id: str, run: int, digest: str, agent: str) -> None:
    """Run one agent, if it is ready, and what follows from it."""
    _visit(self, JobRef(job_id, run, digest), Start(agent=agent))


@app.task(bind=True, name=DRAIN)
def drain(self: Task[Any, Any], job_id: str, run: int, digest: str, pool: str) -> None:
    """Run whatever is ready in one pool of the job, for a slice of time."""
    _visit(self, JobRef(job_id, run, digest), Start(pool=pool))
