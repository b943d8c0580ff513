"""The Celery app of the workers and its three tasks.

Each task is only a wake-up call: the store decides what there is to do. A duplicate or late task does no harm.
"""

from __future__ import annotations

from typing import Any

from celery import Task, signals

from mirrorneuron.dispatch.celery_app import DRAIN, OPEN_JOB, VISIT, make_app
from mirrorneuron.processes.private_memory import keep_private
from mirrorneuron.processes.standard_streams import open_missing
from mirrorneuron.settings import Settings
from mirrorneuron.store.protocol import JobRef
from workers.celery_overrides.batched_events import EventsInBatches
from workers.celery_overrides.remote_control import refuse_commands
from workers.celery_overrides.undecodable_messages import SurviveUndecodable
from workers.node.registration import NodeStep
from workers.runtime import Runtime, runtime
from workers.visit import Start, visit

keep_private()
open_missing()  # a daemon may be started without descriptors 0 to 2
app = make_app(Settings.load())
refuse_commands()
app.steps["worker"].add(NodeStep)
app.steps["consumer"].update((EventsInBatches, SurviveUndecodable))
if app.conf.mirrorneuron_lists:
    app.Task.Request = "workers.celery_overrides.no_ack_request:NoAckRequest"


def _runtime() -> Runtime:
    return runtime(app.settings)


def _visit(task: Task[Any, Any], job: JobRef, start: Start) -> None:
    _runtime().task_watchdog.begin()
    visit(_runtime(), app, job, task.request.chain, start)


@signals.task_postrun.connect
def _end_of_task(**_: Any) -> None:
    """Stop watching the task. Celery has already published the rest of its chain."""
    _runtime().task_watchdog.end()


@app.task(bind=True, name=OPEN_JOB)
def open_job(self: Task[Any, Any], job_id: str, run: int, digest: str, pool: str) -> None:
    """Set a pending job to running, and run its entrypoint, or its ready light agents if it has several."""
    _visit(self, JobRef(job_id, run, digest), Start(pool=pool, opening=True))


@app.task(bind=True, name=VISIT)
def visit_agent(self: Task[Any, Any], job_id: str, run: int, digest: str, agent: str) -> None:
    """Run one agent if it is ready, and then the agents that it makes ready."""
    _visit(self, JobRef(job_id, run, digest), Start(agent=agent))


@app.task(bind=True, name=DRAIN)
def drain(self: Task[Any, Any], job_id: str, run: int, digest: str, pool: str) -> None:
    """Run the job's ready agents of one pool, for a slice of time."""
    _visit(self, JobRef(job_id, run, digest), Start(pool=pool))
