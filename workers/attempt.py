"""Run an executor or a module once, with slots; on failure, retry it later or fail the job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import RedisError

from mirrorneuron.bundle.manifest import AgentType, Template
from mirrorneuron.bundle.plan import PlannedNode
from mirrorneuron.job import EventType
from mirrorneuron.message import Message, encode
from mirrorneuron.store.protocol import Claim, JobRef, ReplyCode, Step, untouched
from workers.agents import executor, module
from workers.agents.draft import Draft, StepContext
from workers.agents.failures import RunFailed, run_failure
from workers.agents.run_context import Run
from workers.disk.slots import NotEnoughSlots
from workers.lifecycle.run_handle import RunHandle
from workers.lifecycle.shortage import BOARD, KINDS, NodeShortage, shortage_of
from workers.runners.command import kill_leftovers
from workers.runtime import Runtime

DEFAULT_BACKOFF_MS: Final = 500
MAX_BACKOFF_MS: Final = 3_600_000
TRIED: Final = "tried"  # key in the agent's state: the nodes on which the attempt has failed, with `retry_elsewhere`
STARTED: Final = "started"  # key in the agent's state: its `startup_delay_ms` has passed

MOMENT_S: Final = 1.0  # for which a run waits for slots here before it looks for another node, and between two looks
ALONE_S: Final = 5.0  # for which a message that lost its worker waits for all slots of the pool
NEAR_MS: Final = 200  # before a run is announced again that another node has room for
FAR_MS: Final = 3_000  # the same if no other node has room now

log = logging.getLogger(__name__)

HANDLERS: Final[dict[AgentType, Callable[[Draft, Run], None]]] = {
    AgentType.EXECUTOR: executor.handle,
    AgentType.MODULE: module.handle,
}


def attempt(
    runtime: Runtime,
    job: JobRef,
    payloads: str | None,
    node: PlannedNode,
    claim: Claim,
    context: StepContext,
    handle: RunHandle,
) -> Step:
    """Run a claimed executor or module once, and return its step. Blocks while it runs.

    A failed run returns a step that retries it or fails the job. A run for which another node has the slots is given
    back, and is no attempt.
    """
    draft = Draft(node, claim, context)
    released = lease_released(context.token, node.pool)
    elsewhere = OtherNodes(runtime, node.pool, node.slots)
    if step := _without_run(draft, released, elsewhere):
        return step
    asked_at = time.monotonic()
    lease: dict[str, Any] = {
        "lease_id": context.token,
        "pool": node.pool,
        "slots": node.slots,
        "queue_wait_ms": claim.waited_ms,
    }
    try:
        if BOARD.active:
            raise NodeShortage((BOARD.present() or (KINDS[0],))[0])
        folder = runtime.payloads(payloads) if payloads else None
        with (
            _slots_taken(runtime, node, claim, handle, elsewhere) as lease["slots"],
            runtime.live_output.of(job.job_id, node.node_id) as echo,
        ):
            if claim.losses:
                alone = lease["slots"] == runtime.slots(node.pool).capacity
                if alone and not _begins_alone(runtime, job, context.token, node.node_id):
                    return given_back(claim, released)
                if kill_leftovers(runtime.settings, job.job_id, node.node_id):
                    log.warning("job %s: killed what a dead worker had left of agent %s", job.job_id, node.node_id)
            message = _run_message(draft.messages, node, claim.attempts)
            run = Run(runtime, job, message, folder, lease, claim.attempts + 1, echo, handle)
            lease["queue_wait_ms"] += round((time.monotonic() - asked_at) * 1000)
            HANDLERS[node.agent_type](draft, run)
        BOARD.clear()
        if TRIED in draft.state:
            draft.state[TRIED] = []
        draft.record(*released)
        return draft.consumed()
    except NotEnoughSlots:  # perhaps no node is large enough now: `mn why` says so, and another node may be started
        return given_back(claim, released, NEAR_MS if elsewhere.have_room() else FAR_MS)
    except Exception as error:  # no code or data of a bundle may crash the worker
        if handle.given_back:
            return given_back(claim, released)
        if kind := shortage_of(error):
            BOARD.report(kind)
            BOARD.settle()
            return given_back(claim, released)
        if elsewhere.room:
            return given_back(claim, released, NEAR_MS)
        BOARD.clear()
        return _retry_or_fail(draft, run_failure(error), released, elsewhere, runtime.settings.max_attempts)


@contextmanager
def _slots_taken(
    runtime: Runtime, node: PlannedNode, claim: Claim, handle: RunHandle, elsewhere: OtherNodes
) -> Iterator[int]:
    """Hold the slots of a run within the block, and yield how many. Raises what `Slots.taken` raises.

    A message that may have killed its worker takes all slots of the pool, so that its next worker takes no other run
    along. If they do not become free soon, because other runs are long, it takes only its own.
    """
    slots = runtime.slots(node.pool)
    give_up_at = time.monotonic() + ALONE_S if claim.losses and slots.capacity > node.slots else 0.0
    with ExitStack() as held:
        taken = slots.capacity if give_up_at else node.slots
        try:
            elsewhere.slots = taken
            held.enter_context(
                slots.taken(
                    taken,
                    lambda: handle.look() or elsewhere.found() or (give_up_at and time.monotonic() > give_up_at),
                )
            )
        except TimeoutError:
            if not give_up_at or handle.reason or elsewhere.room:
                raise
            elsewhere.slots = taken = node.slots
            held.enter_context(slots.taken(taken, lambda: handle.look() or elsewhere.found()))
        elsewhere.slots = node.slots
        yield taken


def _begins_alone(runtime: Runtime, job: JobRef, token: str, agent: str) -> bool:
    """Tell the store that the run begins now and is alone, so that its loss counts. False if the claim is lost."""
    return runtime.store.scripts.renew(job, token, [agent], alone=True) is ReplyCode.RENEWED


def lease_released(token: str, pool: str) -> tuple[str, Any]:
    """The event that says that the slots of a claim are free."""
    return EventType.EXECUTOR_LEASE_RELEASED, {"lease_id": token, "pool": pool}


def given_back(claim: Claim, released: tuple[str, Any], delay_ms: int | None = None) -> Step:
    """The step that gives a claim back uncounted, to be announced again after *delay_ms*."""
    return replace(untouched(claim, [(released[0], encode(released[1]))]), delay_ms=delay_ms)


class OtherNodes:
    """The other nodes that serve a pool, as places for a run of `slots` that this node has no room for."""

    def __init__(self, runtime: Runtime, pool: str, slots: int) -> None:
        self._runtime = runtime
        self._pool = pool
        self.slots = slots
        self.here = runtime.name
        self._look_at: float | None = None
        self.room = False  #: `found` has returned True

    def found(self) -> bool:
        """True if the run has waited here for a moment, and another node has room. Cheap to call often."""
        now = time.monotonic()
        if self._look_at is None:
            self._look_at = now + MOMENT_S
        elif now >= self._look_at:
            self._look_at = now + MOMENT_S
            self.room = self.have_room()
        return self.room

    def untried(self, tried: Sequence[str]) -> bool:
        """True if there is another node that is large enough and not among *tried*."""
        return any(row["slots"] >= self.slots for name, row in self._rows() if name not in tried)

    def have_room(self) -> bool:
        """True if another node has that many free slots, by its last heartbeat."""
        return any(row["slots"] - row["in_use"] >= self.slots for _, row in self._rows())

    def _rows(self) -> list[tuple[str, Any]]:
        """The names of the other nodes that serve the pool, with their slots. Empty if the store does not answer."""
        try:
            nodes = self._runtime.impatient_store.registry.nodes()
        except RedisError:
            return []
        others = [node for node in nodes if node["name"] != self._runtime.name and not node["stopping"]]
        return [(node["name"], node["pools"][self._pool]) for node in others if self._pool in node["pools"]]


def _without_run(draft: Draft, released: tuple[str, Any], elsewhere: OtherNodes) -> Step | None:
    """The step of a claim that needs no run here, else None.

    That is so if all its mail has expired, if its mail or state cannot be parsed, if `startup_delay_ms` delays the
    first run, or if the attempt failed here and has not been made on each other node.
    """
    try:
        if not draft.messages:
            draft.record(*released)
            return draft.consumed()
        delay_ms = draft.node.config.get("startup_delay_ms", 0)
        if delay_ms and not draft.state.get(STARTED):
            draft.state[STARTED] = True
            return draft.retry_later(delay_ms, attempts=0, events=[released])
        tried = draft.state.get(TRIED, ())
        if elsewhere.here in tried and elsewhere.untried(tried):
            return given_back(draft.claim, released, NEAR_MS if elsewhere.have_room() else FAR_MS)
    except Exception as error:  # a retry cannot fix damaged data
        failure = run_failure(error)
        return draft.failed(str(failure), failure.details, [released])
    return None


def _run_message(messages: list[Message], node: PlannedNode, failed: int) -> Message:
    """The message that the run handles. Its envelope's `attempt` is raised by the number of *failed* runs.

    For a batch it is the last message, with the list of all bodies as its body.
    """
    message = messages[0]
    if node.template is Template.BATCH:
        message = replace(messages[-1], body=[message.body for message in messages])
    if failed:
        attempt = message.envelope.get("attempt", 1)
        message = replace(message, envelope={**message.envelope, "attempt": attempt + failed})
    return message


def _retry_or_fail(
    draft: Draft, failure: RunFailed, released: tuple[str, Any], elsewhere: OtherNodes, most: int
) -> Step:
    """The step of a failed run: retry it after a backoff that doubles, or fail the job after the last attempt.

    With `retry_elsewhere` the same attempt is first made on each other node: this one may lack a tool. *most* is the
    most attempts that the node allows.
    """
    config, attempts = draft.node.config, draft.claim.attempts + 1
    error, wanted = str(failure), config.get("max_attempts", 1)
    tried = [*draft.state.get(TRIED, ()), elsewhere.here]
    draft.discard_changes()
    if config.get("retry_elsewhere") and not failure.permanent and elsewhere.untried(tried):
        draft.state[TRIED] = tried
        failed = (EventType.SANDBOX_JOB_FAILED, {"error": error, "attempt": attempts})
        retry = (EventType.EXECUTOR_RETRY, {"error": error, "attempt": attempts, "delay_ms": NEAR_MS, "tried": tried})
        events = [*failure.events, failed, released, retry]
        return draft.retry_later(NEAR_MS, attempts=draft.claim.attempts, error=error, events=events)
    retryable = not failure.permanent and (failure.transient or config.get("retry_on", "any") == "any")
    if retryable and most <= attempts < wanted:
        error += f" (attempt {attempts}; this node allows MIRROR_NEURON_MAX_ATTEMPTS={most})"
    events = [*failure.events, (EventType.SANDBOX_JOB_FAILED, {"error": error, "attempt": attempts}), released]
    if attempts < min(wanted, most) and retryable:
        delay_ms = min(config.get("retry_backoff_ms", DEFAULT_BACKOFF_MS) * 2 ** (attempts - 1), MAX_BACKOFF_MS)
        retry = (EventType.EXECUTOR_RETRY, {"error": error, "attempt": attempts, "delay_ms": delay_ms})
        if TRIED in draft.state:
            draft.state[TRIED] = []
        return draft.retry_later(delay_ms, attempts=attempts, error=error, events=[*events, retry])
    return draft.failed(error, {**failure.details, "attempts": attempts}, events)
