"""A plan as Celery signatures: `open_job | node | node ...`, one signature a node of a linear run.

Steps that need no worker of their own ride along: the worker takes them off the chain once their work is done.
"""

from __future__ import annotations

from celery import Celery, chain
from celery.canvas import Signature

from mirrorneuron.app import DRAIN, OPEN_JOB, VISIT
from mirrorneuron.claim import JobRef
from mirrorneuron.keys import LIGHT, queue
from mirrorneuron.plan import Plan


def job_chain(app: Celery, plan: Plan, job: JobRef, *, first: bool = True) -> Signature:
    """The chain that starts a job: `open_job` and the linear run of its entrypoint (with several: `open_job` alone).

    The head's task id is the job id, so that `AsyncResult(job_id)` is the job; enqueued again (*first* false) it gets a
    fresh one, because workers drop an id that was revoked.
    """
    head = _signature(app, OPEN_JOB, plan, job, LIGHT, (), "open_job")
    if first:
        head.set(task_id=job.job_id)
    if len(plan.entrypoints) > 1:
        return head
    return _chained([head, *_run(app, plan, job, plan.entrypoints[0])])


def run_chain(app: Celery, plan: Plan, job: JobRef, start: str) -> Signature:
    """The chain of the linear run that begins at node *start*."""
    return _chained(_run(app, plan, job, start))


def drain(app: Celery, plan: Plan, job: JobRef, pool: str) -> Signature:
    """One task that runs whatever is ready in *pool*, for a slice of time."""
    return _signature(app, DRAIN, plan, job, pool, (pool,), f"drain-{pool}")


def send(work: Signature, job: JobRef, *, countdown_s: float | None = None) -> None:
    """Publish *work* so that nothing of a surrounding task of another app sticks to it."""
    work.apply_async(root_id=job.job_id, add_to_parent=False, countdown=countdown_s)


def _run(app: Celery, plan: Plan, job: JobRef, start: str) -> list[Signature]:
    return [
        _signature(app, VISIT, plan, job, plan.nodes[node].pool, (node,), node) for node in plan.linear_run(start)
    ]


def _chained(steps: list[Signature]) -> Signature:
    return chain(*steps, app=steps[0].app) if len(steps) > 1 else steps[0]


def _signature(
    app: Celery, task: str, plan: Plan, job: JobRef, pool: str, args: tuple[str, ...], name: str
) -> Signature:
    return app.signature(
        task,
        args=(*job, *args),
        immutable=True,
        queue=queue(app.conf.mirrorneuron_settings.redis_namespace, pool),
        shadow=f"{plan.graph_id}.{name}",
        ignore_result=True,
    )
