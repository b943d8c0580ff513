"""Tells Celery who should run next, with as few tasks as will do, and never a list of agents.

Whoever makes agents ready announces them once: one ready agent by a chain of its linear run, or by leaving it to the
rest of the task's own chain; several by one drain. A drain that finds more than it can hold puts one successor into the
queue before it starts, and so on, until every free slot is at work. What gets lost, the sweeper announces again.
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

AGENT_ARG = len(JobRef._fields)  # where a visit's arguments name the agent


class Announcer:
    """The announcements of one task. *rest* is what Celery would run after it, last step first. *told* is called after
    each: a broker may take its time.
    """

    def __init__(
        self, chains: Chains, job: JobRef, pool: str, rest: list[Any] | None, told: Callable[[], None]
    ) -> None:
        self._chains = chains
        self._job = job
        self._own = {LIGHT, pool}
        self._told = told
        self._rest = rest if rest is not None else []
        self._succeeded: set[str] = set()  # own pools for which a successor is in the queue already

    def going_on(self, reply: Reply, *, heavy: bool) -> None:
        """Before the claims of *reply* run: share out what is beyond them."""
        for row in reply.waiting:
            if row.pool not in self._own:
                if row.new:
                    self._announce(row)
            # One successor while it waits in the queue is enough. It may have come and gone when there is news.
            elif row.new or (row.pool not in self._succeeded and (heavy or row.pool == LIGHT)):
                self._succeeded.add(row.pool)
                self._drain(row.pool)

    def leaving(self, waiting: Sequence[ReadyAgents], *, worked: bool) -> None:
        """At the end of the task: announce what is ready and ours to tell of, or leave it to the rest of the chain."""
        kept = False
        for row in waiting:
            left_over = worked and row.pool in self._own and row.pool not in self._succeeded
            if not row.new and not left_over:
                continue
            if row.due == 1 and not kept and self._trim(row.agent_id):
                kept = True
            else:
                self._announce(row)
        if not kept:
            self._rest.clear()

    def delayed(self, steps: Sequence[Step]) -> None:
        """Have agents that wait for their next attempt run when it is due."""
        for step in steps:
            if step.delay_ms is not None:
                work, wait_s = self._chains.linear_chain(self._job, step.agent_id), step.delay_ms / 1000
                self._tell(partial(self._chains.publish, work, self._job, countdown_s=wait_s))

    def _announce(self, row: ReadyAgents) -> None:
        self._tell(lambda: self._chains.announce(self._job, row))

    def _drain(self, pool: str) -> None:
        self._tell(lambda: self._chains.publish(self._chains.drain(self._job, pool), self._job))

    def _tell(self, send: Callable[[], None]) -> None:
        """Send, whatever comes of it: what is held has to be run, and the sweeper announces what gets lost."""
        try:
            send()
        except Exception as error:  # whatever the broker's client raises
            log.warning("job %s: an announcement is lost: %s", self._job.job_id, error)
        self._told()

    def _trim(self, agent: str) -> bool:
        """Take steps that ran already, or have no mail, off the chain, if that makes *agent* the next."""
        names = [step["args"][AGENT_ARG] for step in self._rest]
        if agent not in names:
            return False
        del self._rest[names.index(agent) + 1 :]
        return True
