"""Celery chains of a plan: `open_job | node | node ...`, one signature for each node of a linear run.

Signatures are built as the plain dicts of the wire format (Celery docs, "Message protocol", version 2, `chain`):
building them through the canvas takes as long as the rest of a submission. A worker removes the steps that it has
already run, or that have no messages, from the rest of the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from celery import Celery
from kombu import Producer

from mirrorneuron.bundle.plan import Plan
from mirrorneuron.dispatch.celery_app import DRAIN, OPEN_JOB, VISIT
from mirrorneuron.pools import queue
from mirrorneuron.store.protocol import JobRef, ReadyAgents


class StepOptions(TypedDict):
    queue: str
    shadow: str  #: `<graph>.<node>`: the task's name in Flower and in logs
    ignore_result: bool


class ChainStep(TypedDict):
    """One signature of a chain."""

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: StepOptions
    subtask_type: None
    immutable: bool


class Chains:
    """Builds the chains of one plan and publishes them. *namespace* is that of the queues."""

    def __init__(self, app: Celery, namespace: str, plan: Plan) -> None:
        self._app = app
        self._namespace = namespace
        self._plan = plan

    def opening(self, job: JobRef) -> list[ChainStep]:
        """The chain that starts a job: `open_job`, then the rest of the entrypoint's linear run.

        `open_job` runs the entrypoint too, if there is only one.
        """
        pool, entrypoints = self._plan.opening_pool, self._plan.entrypoints
        head = self._step(OPEN_JOB, job, pool, "open_job", pool)
        return [head] if len(entrypoints) > 1 else [head, *self.linear_chain(job, entrypoints[0])[1:]]

    def linear_chain(self, job: JobRef, start: str) -> list[ChainStep]:
        """The chain of the linear run that begins at node *start*."""
        nodes = self._plan.nodes
        return [self._step(VISIT, job, nodes[name].pool, name, name) for name in self._plan.linear_run(start)]

    def drain(self, job: JobRef, pool: str) -> list[ChainStep]:
        """One task that runs the ready agents of *pool*, for a slice of time."""
        return [self._step(DRAIN, job, pool, f"drain-{pool}", pool)]

    def announce(self, job: JobRef, row: ReadyAgents) -> None:
        """Announce ready agents: one by the chain of its linear run, several by one drain."""
        self.publish(self.linear_chain(job, row.agent_id) if row.due == 1 else self.drain(job, row.pool), job)

    def publish(
        self,
        steps: Sequence[ChainStep],
        job: JobRef,
        *,
        task_id: str | None = None,
        countdown_s: float | None = None,
        producer: Producer | None = None,
    ) -> None:
        """Publish a chain, without inheriting headers from a task of the caller's own Celery app.

        The head of a job's first chain has the job id as *task_id*, so that `AsyncResult(job_id)` is the job. Repeated
        announcements must not use it: workers drop a task whose id was revoked.
        """
        head, *rest = steps
        self._app.send_task(
            head["task"],
            head["args"],
            task_id=task_id,
            countdown=countdown_s,
            producer=producer,  # None: one of the app's
            chain=rest[::-1] or None,
            root_id=job.job_id,
            add_to_parent=False,
            argsrepr=repr(
                tuple(head["args"][3:])
            ),  # shown by Flower; the job and the node are in the root id and the name
            kwargsrepr="{}",
            declare=() if self._app.conf.mirrorneuron_lists else None,  # otherwise kombu checks the queue each time
            **head["options"],
        )

    def _step(self, task: str, job: JobRef, pool: str, name: str, *args: str) -> ChainStep:
        return {
            "task": task,
            "args": [*job, *args],
            "kwargs": {},
            "options": {
                "queue": queue(self._namespace, pool),
                "shadow": f"{self._plan.graph_id}.{name}",
                "ignore_result": True,
            },
            "subtask_type": None,
            "immutable": True,
        }
