"""The visit loop: claim agents, run them, commit, and continue with the agents that the commit made ready.

A Celery task is only a wake-up call. All facts about a job are in the store, and each run of an agent ends in one
atomic commit.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery

from mirrorneuron.bundle.plan import Plan
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.errors import BundleNotFound
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import Claim, JobRef, ReadyAgents, Reply, ReplyCode, Step, new_token, untouched
from workers.agents.draft import StepContext
from workers.attempt import attempt, given_back, lease_released
from workers.claim_runs import ClaimRuns, without_inline_mail
from workers.lifecycle.run_handle import Alarm, RunHandle
from workers.lifecycle.shutdown import STOP
from workers.recovery.lease_keeper import Holding
from workers.recovery.settle import end_after, failed, settle
from workers.runtime import Runtime
from workers.task_announcer import TaskAnnouncer

SLICE_S: Final = 0.1  # how long one task claims more work; Celery's overhead of 1 ms a task is then a few per cent
LIGHT_BATCH: Final = 128  # most light agents in one claim
HEAVY_BATCH: Final = 16  # most modules in one claim, if their runs are short
TOGETHER_S: Final = 0.01  # after which no further run begins in a claim: if its worker dies, so much is repeated
LONG_S: Final = 0.03  # after which a run no longer holds up the other runs of its claim

log = logging.getLogger(__name__)


def visit(runtime: Runtime, app: Celery, job: JobRef, rest: list[Any] | None, start: Start) -> None:
    """Do the work of one task for *job*. Fail the job if its bundle is no longer in the store.

    *rest* is the rest of the task's Celery chain, last step first. The announcer shortens it in place.
    """
    scripts = runtime.store.scripts
    try:
        plan, payloads = runtime.plan(job.digest)
    except BundleNotFound as error:
        if runtime.store.ref(job.job_id) == job:  # a corrupt task may name a bundle that is not the job's
            found = runtime.store.found_agents(job.job_id)
            scripts.finish(job, failed(None, f"{error}: it was deleted or lost; submit the job again"), found)
            runtime.mark_ended(job.job_id)
        return
    agent = start.agent or (plan.entrypoints[0] if start.opening and len(plan.entrypoints) == 1 else "")
    pool = plan.nodes[start.agent].pool if start.agent else start.pool
    agents = _claimed_with(plan, agent) if agent and plan.nodes[agent].pool == pool else []
    chains = Chains(app, runtime.settings.redis_namespace, plan)
    announcer = TaskAnnouncer(chains, job, pool, rest, runtime.task_watchdog.next_step)
    wanted = [(pool, LIGHT_BATCH if pool == LIGHT else 1)]
    if STOP.begun.is_set():  # the worker is stopping: claim no agent, and re-announce the work to the other nodes
        agents, wanted = [], [(pool, 0)]
    reply = scripts.claim(job, new_token(), wanted, agents=agents, opening=start.opening)
    Visit(runtime, job, plan, payloads, pool, announcer).work(reply)


def _claimed_with(plan: Plan, agent: str) -> list[str]:
    """*agent*, and those agents after it in its linear run that the same worker runs in a short time.

    These are light agents that need only one message each, and after a module also modules of its pool. One claim and
    one commit serve all of them.
    """
    first = plan.nodes[agent]
    if not (first.light or first.shares_claims):
        return [agent]

    def follows(name: str) -> bool:
        node = plan.nodes[name]
        return not node.threshold if node.light else node.shares_claims and node.pool == first.pool

    return [agent, *itertools.takewhile(follows, plan.linear_run(agent)[1:])]


@dataclass(frozen=True, slots=True)
class Start:
    """What a task asks a worker to do first."""

    pool: str = LIGHT
    agent: str = ""  #: claim this agent only; "" claims any ready agent of the pool
    opening: bool = False  #: set a pending job to running first


class Visit:
    """One task's visit to one job. It runs the job's light agents and the executors and modules of *pool*."""

    def __init__(
        self, runtime: Runtime, job: JobRef, plan: Plan, payloads: str | None, pool: str, announcer: TaskAnnouncer
    ) -> None:
        self._runtime = runtime
        self._job = job
        self._plan = plan
        self._payloads = payloads
        self._announcer = announcer
        self._scripts = runtime.store.scripts
        self._pool = pool
        self._heavy = ((pool, 1),) if pool != LIGHT else ()
        self._shares = pool in plan.sharing_pools
        self._heavy_until = self._light_until = time.monotonic() + SLICE_S

    def work(self, reply: Reply) -> None:
        """Run and commit the claims of *reply*. Each commit claims the next agents, until the time slice is over."""
        worked = bool(reply.claims) or STOP.begun.is_set()
        while reply.claims:
            reply = self._run_and_commit(reply)
        waiting = self._settled(reply) if reply.idle else reply.waiting
        self._announcer.after_work(waiting, worked=worked)

    def _settled(self, reply: Reply) -> tuple[ReadyAgents, ...]:
        return settle(self._runtime.store, self._job, self._plan, reply.revision, self._runtime.mark_ended)

    def _wanted(self) -> tuple[tuple[str, int], ...]:
        """The pools to claim from next. Light agents come first: they take microseconds and may end the job."""
        if STOP.begun.is_set():
            return ()
        now = time.monotonic()
        light = ((LIGHT, LIGHT_BATCH),) if now < self._light_until else ()
        return (*light, *self._heavy) if now < self._heavy_until else light

    def _commit(self, token: str, claims: Sequence[Claim], steps: list[Step]) -> Reply:
        """Commit the *steps* of *claims*, and claim the next agents in the same write."""
        next_token = new_token()
        reply = self._write(token, claims, steps, next_token)
        if reply.word is ReplyCode.MOVED:  # other mail has arrived and must be handled before the inline mail
            steps = without_inline_mail(claims, steps)
            reply = self._write(token, claims, steps, next_token)
        if reply.word is ReplyCode.FULL:
            steps = self._too_much_mail(claims, steps)
            reply = self._write(token, claims, steps, next_token)
        if reply.word is not ReplyCode.COMMITTED:
            log.info("job %s: commit refused: %s", self._job.job_id, reply.word)
        elif reply.ended:
            self._runtime.mark_ended(self._job.job_id)
        else:
            self._announcer.retries(steps)
        return reply

    def _too_much_mail(self, claims: Sequence[Claim], steps: Sequence[Step]) -> list[Step]:
        """The steps that fail the job because of the agent that sends most, and give the other claims back."""
        sent = [sum(len(text) for _, text in step.outgoing) for step in steps]
        most = sent.index(max(sent))
        setting = f"MIRROR_NEURON_MAX_MAIL_BYTES ({self._runtime.settings.max_mail_bytes} bytes)"
        error = f"the run sends {sent[most]} bytes, with which the job's waiting messages would exceed {setting}"
        agent = claims[most].agent_id
        failure = Step(
            agent,
            processed=claims[most].processed,
            attempts=claims[most].attempts + 1,
            error=error,
            end=failed(agent, error),
        )
        return [failure if claim.agent_id == agent else untouched(claim) for claim in claims]

    def _write(self, token: str, claims: Sequence[Claim], steps: list[Step], next_token: str) -> Reply:
        """Send one commit to the store. A commit that may end the job names all agents, so that their keys expire."""
        ends = any(step.end for step in steps)
        most = self._runtime.settings.max_message_bytes
        idle_end = None if ends else end_after(self._plan, claims, steps, most)
        agents = self._plan.nodes.keys() if ends or idle_end else ()
        return self._scripts.commit(
            self._job, token, steps, next_token, self._wanted(), agents=agents, idle_end=idle_end
        )

    def _run_and_commit(self, reply: Reply) -> Reply:
        """Run the claimed agents in order, stop after a step that ends the job, and commit.

        The lease keeper renews the claims until the commit is done, because a large commit takes time to send.
        """
        agents = [claim.agent_id for claim in reply.claims]
        began = time.monotonic()
        heavy = any(not self._plan.nodes[agent].light for agent in agents)
        handle = RunHandle(alarm=Alarm(began + LONG_S, lambda: self._commit_early(reply.token, runs, holding, handle)))
        runs = self._runs_of(reply, handle, began + TOGETHER_S)
        with self._runtime.keeper.holding(self._job, reply.token, agents, handle if heavy else None) as holding:
            # Announce only now that the claims are being renewed: the broker may be slow.
            self._announcer.before_run(reply, heavy=heavy)
            with self._runtime.task_watchdog.suspended():
                steps = runs.run()
            if heavy:
                # A long run uses up the slice. Extend it for the light agents that the run makes ready.
                self._light_until = time.monotonic() + SLICE_S
                self._share_next_claim(reply, (time.monotonic() - began) / len(agents))
            return self._commit(reply.token, runs.claims, steps)

    def _runs_of(self, reply: Reply, handle: RunHandle, until: float) -> ClaimRuns:
        """The runs of the claims in *reply*. After *until* (monotonic), no further one begins."""
        context = StepContext(
            token=reply.token,
            now_ms=self._runtime.store.clock.now_ms(),
            clock=self._runtime.store.clock.now_ms,
            agents=self._plan.nodes.keys(),
            max_message_bytes=self._runtime.settings.max_message_bytes,
        )
        return ClaimRuns(
            self._plan,
            reply.claims,
            context,
            run_heavy=lambda node, claim: attempt(
                self._runtime, self._job, self._payloads, node, claim, context, handle
            ),
            give_back=lambda claim: given_back(claim, lease_released(reply.token, self._pool)),
            is_over=lambda: handle.reason is not None or time.monotonic() >= until,
        )

    def _share_next_claim(self, reply: Reply, each_s: float) -> None:
        """Claim several modules at once if a run takes only *each_s*, but leave some to the other slots."""
        if self._shares:
            due = next((row.due for row in reply.waiting if row.pool == self._pool), 0)
            most = min(HEAVY_BATCH, int(TOGETHER_S / 2 / each_s), due // 4)
            self._heavy = ((self._pool, max(1, most)),)

    def _commit_early(self, token: str, runs: ClaimRuns, holding: Holding, handle: RunHandle) -> None:
        """Commit the runs of a claim that are over, and give the agents behind back, while a long run goes on.

        If that fails, the long run is given back too, so that it holds up nobody.
        """
        steps = runs.over_so_far()
        if not steps:
            return
        try:
            holding.agents = (runs.running,)  # before the commit: a renewal of the others would be refused after it
            reply = self._scripts.commit(self._job, token, steps, new_token(), early=True)
        except Exception as error:
            log.warning("job %s: the early commit failed: %s", self._job.job_id, error)
            handle.give_back("the store did not take the runs before it")
            return
        if reply.word is not ReplyCode.COMMITTED:
            handle.give_back(f"the runs before it could not be committed: {reply.word}")
            return
        runs.part()
        self._announcer.retries(steps)
        self._announcer.before_run(reply, heavy=True)
