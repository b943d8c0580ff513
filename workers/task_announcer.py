"""Announce ready agents: publish Celery tasks for them, as few as possible.

A task that makes agents ready announces them once. A single ready agent is announced by a chain of its linear run, or
is left to the rest of the task's own chain. Several ready agents of a pool are announced by one drain. A drain that
finds more ready agents than it can claim publishes one successor before it starts to run, and the successor does the
same, until every free slot is in use. The sweeper re-announces agents whose announcement got lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import JobRef, ReadyAgents, Reply, Step

log = logging.getLogger(__name__)

AGENT_ARG = len(JobRef._fields)  # index of the agent in the arguments of a visit task


class TaskAnnouncer:
    """Publishes the announcements of one task.

    *rest* is the rest of the task's Celery chain, last step first; it is changed in place. *published* is called after
    each announcement, because each may block on the broker and the task watchdog has to see progress.
    """

    def __init__(
        self, chains: Chains, job: JobRef, pool: str, rest: list[Any] | None, published: Callable[[], None]
    ) -> None:
        self._chains = chains
        self._job = job
        self._own = {LIGHT, pool}  # the pools that this task claims from
        self._published = published
        self._rest = rest if rest is not None else []
        self._succeeded: set[str] = set()  # own pools for which this task has published a successor

    def before_run(self, reply: Reply, *, heavy: bool) -> None:
        """Announce the ready agents that *reply* did not claim, so that other workers run them meanwhile."""
        for row in reply.waiting:
            if row.pool not in self._own:
                if row.new:
                    self._announce(row)
            # One queued successor is enough. If agents became ready since, it may have finished already: send another.
            elif row.new or (row.pool not in self._succeeded and (heavy or row.pool == LIGHT)):
                self._succeeded.add(row.pool)
                self._drain(row.pool)

    def after_work(self, waiting: Sequence[ReadyAgents], *, worked: bool) -> None:
        """Announce the ready agents at the end of the task, or leave one of them to the rest of the chain.

        Agents that an earlier reply reported are skipped, except those of the task's own pools if it *worked* and has
        published no successor.
        """
        kept = False
        for row in waiting:
            left_over = worked and row.pool in self._own and row.pool not in self._succeeded
            if not row.new and not left_over:
                continue
            if row.due == 1 and not kept and self._keep_chain(row.agent_id):
                kept = True
            else:
                self._announce(row)
        if not kept:
            self._rest.clear()

    def retries(self, steps: Sequence[Step]) -> None:
        """Announce the agents that *steps* delay, by tasks that start when the delay is over."""
        for step in steps:
            if step.delay_ms is not None:
                chain, delay_s = self._chains.linear_chain(self._job, step.agent_id), step.delay_ms / 1000
                self._publish(partial(self._chains.publish, chain, self._job, countdown_s=delay_s))

    def _announce(self, row: ReadyAgents) -> None:
        self._publish(lambda: self._chains.announce(self._job, row))

    def _drain(self, pool: str) -> None:
        self._publish(lambda: self._chains.publish(self._chains.drain(self._job, pool), self._job))

    def _publish(self, send: Callable[[], None]) -> None:
        """Call *send*. An error is only logged: the task has to run its claims, and the sweeper re-announces."""
        try:
            send()
        except Exception as error:  # each broker's client has its own exceptions
            log.warning("job %s: announcement failed; the sweeper will repeat it: %s", self._job.job_id, error)
        self._published()

    def _keep_chain(self, agent: str) -> bool:
        """Make *agent* the next step of the rest of the chain. Returns False if the chain does not contain it.

        The steps before *agent* are removed: their agents have run already or have no mail.
        """
        names = [step["args"][AGENT_ARG] for step in self._rest]
        if agent not in names:
            return False
        del self._rest[names.index(agent) + 1 :]
        return True
