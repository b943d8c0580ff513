"""THE loop: claim agents, run them, commit, and go on with what the commit made ready.

A task is a wake-up call. What happened is in the store alone, and each run of an agent ends in one atomic commit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery

from mirrorneuron.claim import Claim, End, JobRef, Reply, Step, Word, new_token
from mirrorneuron.job import JobStatus
from mirrorneuron.keys import LIGHT
from mirrorneuron.manifest import AgentType, OnIdle
from mirrorneuron.message import encode
from mirrorneuron.plan import Plan, PlannedNode
from workers.agents import aggregator, router, sensor
from workers.announce import Announcer
from workers.attempts import attempt
from workers.runners import RunHandle
from workers.runtime import Runtime
from workers.step import Draft, RunFailed, Surroundings

SLICE_S: Final = 0.1  # of work that one task carries, so that Celery's own millisecond stays a few per cent of it
LIGHT_BATCH: Final = 128  # light agents in one claim

LIGHT_AGENTS: Final[dict[AgentType, Callable[[Draft], None]]] = {
    AgentType.ROUTER: router.handle,
    AgentType.AGGREGATOR: aggregator.handle,
    AgentType.SENSOR: sensor.handle,
}

log = logging.getLogger(__name__)


def visit(runtime: Runtime, app: Celery, job: JobRef, rest: list[Any] | None, start: Start) -> None:
    """Let a task act on a job; *rest* is what Celery would run after it. A job whose bundle is lost fails."""
    try:
        plan, payloads = runtime.plan(job.digest)
    except LookupError as error:
        runtime.store.scripts.finish(job, _failed(None, f"{error}: it was deleted, or the server lost it"))
        runtime.store.bury(job.job_id, ())
        return
    pool = plan.nodes[start.agent].pool if start.agent else start.pool
    wanted = [(pool, LIGHT_BATCH if pool == LIGHT else 1)]
    announcer = Announcer(app, plan, job, pool, rest)
    reply = runtime.store.scripts.claim(job, new_token(), wanted, agent=start.agent, opening=start.opening)
    Visit(runtime, job, plan, payloads, pool, announcer).work(reply)


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
        worked = bool(reply.claims)
        while reply.claims:
            heavy = not self._plan.nodes[reply.claims[0].agent_id].light
            self._announcer.going_on(reply, heavy=heavy)
            steps = self._run(reply)
            if heavy:  # what a command of ten minutes made ready still rides along
                self._light_until = time.monotonic() + SLICE_S
            reply = self._scripts.commit(self._job, reply.token, steps, new_token(), self._wanted())
            if reply.word is not Word.COMMITTED:
                log.info("job %s: a commit was refused: %s", self._job.job_id, reply.word)
            elif any(step.end for step in steps):
                self._runtime.store.bury(self._job.job_id, list(self._plan.nodes))
            else:
                self._announcer.delayed(steps)
        if reply.idle:
            reply = self._settle(reply)
        self._announcer.leaving(reply, worked=worked)

    def _wanted(self) -> tuple[tuple[str, int], ...]:
        """What to claim next. Light agents first: they cost microseconds, and may end the job."""
        now = time.monotonic()
        light = ((LIGHT, LIGHT_BATCH),) if now < self._light_until else ()
        return (*light, *self._heavy) if now < self._heavy_until else light

    def _run(self, reply: Reply) -> list[Step]:
        """Run the claimed agents, up to the one that ends the job."""
        agents = [claim.agent_id for claim in reply.claims]
        handle = RunHandle()
        around = Surroundings(
            token=reply.token,
            now_ms=time.time_ns() // 1_000_000,
            agents=self._plan.nodes.keys(),
            max_message_bytes=self._runtime.settings.max_message_bytes,
        )
        steps: list[Step] = []
        with self._runtime.keeper.holding(self._job, reply.token, agents, handle):
            for claim in reply.claims:
                node = self._plan.nodes[claim.agent_id]
                if node.light:
                    steps.append(run_light(node, claim, around))
                else:
                    steps.append(attempt(self._runtime, self._job, self._payloads, node, claim, around, handle))
                if steps[-1].end:
                    break
        return steps

    def _settle(self, reply: Reply) -> Reply:
        """The job is idle: let part-filled batches go, or do as its policy says."""
        if self._plan.batches:
            flushed: Reply = self._scripts.flush(self._job, self._plan.batches)
            if flushed.waiting:
                return flushed
        end = self._idle_end()
        word = self._scripts.settle(self._job, reply.moves, end)
        if word is Word.SETTLED and end is not None:
            self._runtime.store.bury(self._job.job_id, list(self._plan.nodes))
        return reply

    def _idle_end(self) -> End | None:
        match self._plan.on_idle:
            case OnIdle.WAIT:
                return None
            case OnIdle.FAIL:
                return _failed(None, "the job became idle, and its on_idle policy is to fail")
            case OnIdle.COMPLETE:
                output = self._runtime.store.last_bodies(self._job.job_id, self._plan.sinks)
                result = encode({"agent_id": None, "output": output})
                cap = self._runtime.settings.max_message_bytes
                if len(result) > cap:
                    name = "MIRROR_NEURON_MAX_MESSAGE_BYTES"
                    return _failed(None, f"the job's output has {len(result)} bytes, which is over {name} ({cap})")
                return End(JobStatus.COMPLETED, result, encode({"agent_id": None}))


def run_light(node: PlannedNode, claim: Claim, around: Surroundings) -> Step:
    """One run of a router, an aggregator or a sensor: pure, whatever it is given."""
    draft = Draft(node, claim, around)
    try:
        LIGHT_AGENTS[node.agent_type](draft)
        return draft.consumed()
    except RunFailed as failure:
        return draft.failed(str(failure), failure.details)


def _failed(agent: str | None, error: str) -> End:
    summary = {"agent_id": agent, "error": error}
    return End(JobStatus.FAILED, encode({**summary, "details": {}}), encode(summary))
