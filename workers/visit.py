"""THE loop: claim agents, run them, commit, and go on with what the commit made ready.

A task is a wake-up call. What happened is in the store alone, and each run of an agent ends in one atomic commit.
"""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery

from mirrorneuron.bundle.plan import Plan
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.errors import BundleNotFound
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import JobRef, Reply, ReplyCode, Step, new_token
from workers.agents.draft import StepContext
from workers.announcer import Announcer
from workers.attempt import attempt
from workers.lifecycle.run_handle import RunHandle
from workers.lifecycle.shutdown import STOP
from workers.light_batch import run_light, without_inline_mail
from workers.recovery.settle import failed, settle
from workers.runtime import Runtime

SLICE_S: Final = 0.1  # of work that one task carries, so that Celery's own millisecond stays a few per cent of it
LIGHT_BATCH: Final = 128  # light agents in one claim

log = logging.getLogger(__name__)


def visit(runtime: Runtime, app: Celery, job: JobRef, rest: list[Any] | None, start: Start) -> None:
    """Let a task act on a job; *rest* is what Celery would run after it. A job whose bundle is lost fails."""
    scripts = runtime.store.scripts
    try:
        plan, payloads = runtime.plan(job.digest)
    except BundleNotFound as error:
        if runtime.store.ref(job.job_id) == job:  # the job's own bundle, not what a garbled task names
            lost = runtime.store.found_agents(job.job_id)
            scripts.finish(job, failed(None, f"{error}: it was deleted, or the server lost it"), lost)
            runtime.mark_ended(job.job_id)
        return
    agent = start.agent or (plan.entrypoints[0] if start.opening and len(plan.entrypoints) == 1 else "")
    pool = plan.nodes[start.agent].pool if start.agent else start.pool
    agents = _run_of(plan, agent) if agent and plan.nodes[agent].pool == pool else []
    chains = Chains(app, runtime.settings.redis_namespace, plan)
    announcer = Announcer(chains, job, pool, rest, runtime.task_watchdog.next_step)
    wanted = [(pool, LIGHT_BATCH if pool == LIGHT else 1)]
    if STOP.begun.is_set():  # this task came too late: what it would run is told of again, to the nodes that stay
        agents, wanted = [], [(pool, 0)]
    reply = scripts.claim(job, new_token(), wanted, agents=agents, opening=start.opening)
    Visit(runtime, job, plan, payloads, pool, announcer).work(reply)


def _run_of(plan: Plan, agent: str) -> list[str]:
    """*agent*, and if it is light those light ones after it that act on a single message: one commit does for all."""
    if not plan.nodes[agent].light:
        return [agent]
    following = plan.linear_run(agent)[1:]
    return [
        agent,
        *itertools.takewhile(lambda name: plan.nodes[name].light and not plan.nodes[name].threshold, following),
    ]


@dataclass(frozen=True, slots=True)
class Start:
    """What a task begins with."""

    pool: str = LIGHT
    agent: str = ""  #: this one alone; or "" for any of the pool
    opening: bool = False  #: a pending job is opened first


class Visit:
    """One task's visit to one job: it runs the job's light agents, and the heavy ones of *pool*."""

    def __init__(
        self, runtime: Runtime, job: JobRef, plan: Plan, payloads: str | None, pool: str, announcer: Announcer
    ) -> None:
        self._runtime = runtime
        self._job = job
        self._plan = plan
        self._payloads = payloads
        self._announcer = announcer
        self._scripts = runtime.store.scripts
        self._heavy = ((pool, 1),) if pool != LIGHT else ()
        self._heavy_until = self._light_until = time.monotonic() + SLICE_S

    def work(self, reply: Reply) -> None:
        """Run what *reply* claimed and commit; claim what that made ready, until the slice is over."""
        worked = bool(reply.claims) or STOP.begun.is_set()
        while reply.claims:
            reply = self._round(reply)
        waiting = settle(self._runtime.store, self._job, self._plan, reply.revision) if reply.idle else reply.waiting
        self._announcer.leaving(waiting, worked=worked)

    def _wanted(self) -> tuple[tuple[str, int], ...]:
        """What to claim next. Light agents first: they cost microseconds, and may end the job."""
        if STOP.begun.is_set():
            return ()
        now = time.monotonic()
        light = ((LIGHT, LIGHT_BATCH),) if now < self._light_until else ()
        return (*light, *self._heavy) if now < self._heavy_until else light

    def _commit(self, held: Reply, steps: list[Step]) -> Reply:
        next_token = new_token()
        reply = self._written(held.token, steps, next_token)
        if reply.word is ReplyCode.MOVED:  # mail came in that ours must not overtake: one at a time, then
            steps = without_inline_mail(held.claims, steps)
            reply = self._written(held.token, steps, next_token)
        if reply.word is not ReplyCode.COMMITTED:
            log.info("job %s: a commit was refused: %s", self._job.job_id, reply.word)
        elif _ends(steps):
            self._runtime.mark_ended(self._job.job_id)
        else:
            self._announcer.delayed(steps)
        return reply

    def _written(self, token: str, steps: list[Step], next_token: str) -> Reply:
        """Commit; what ends the job gives all of its agents their time to live."""
        agents = self._plan.nodes.keys() if _ends(steps) else ()
        return self._scripts.commit(self._job, token, steps, next_token, self._wanted(), agents=agents)

    def _round(self, reply: Reply) -> Reply:
        """Run the claimed agents, up to the one that ends the job, and commit. The claim is kept alive until that is
        done: much to send takes its time too.
        """
        held = [claim.agent_id for claim in reply.claims]
        handle = RunHandle()
        context = StepContext(
            token=reply.token,
            now_ms=time.time_ns() // 1_000_000,
            agents=self._plan.nodes.keys(),
            max_message_bytes=self._runtime.settings.max_message_bytes,
        )
        node = self._plan.nodes[held[0]]
        with self._runtime.keeper.holding(self._job, reply.token, held, None if node.light else handle):
            self._announcer.going_on(reply, heavy=not node.light)  # kept alive by now: a broker may take its time
            with self._runtime.task_watchdog.elsewhere():
                if node.light:
                    steps = run_light(self._plan, reply.claims, context)
                else:
                    steps = [attempt(self._runtime, self._job, self._payloads, node, reply.claims[0], context, handle)]
                    # What a command of ten minutes made ready still rides along.
                    self._light_until = time.monotonic() + SLICE_S
            return self._commit(reply, steps)


def _ends(steps: list[Step]) -> bool:
    return any(step.end for step in steps)
