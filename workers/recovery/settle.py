"""Settle an idle job: flush part-filled batches, or apply the job's `on_idle` policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mirrorneuron.bundle.manifest import OnIdle
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.errors import RecordDamaged
from mirrorneuron.job import JobStatus
from mirrorneuron.message import decode, encode
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import Claim, JobEnd, JobRef, ReadyAgents, ReplyCode, Step


def settle(
    store: Store, job: JobRef, plan: Plan, revision: int, mark_ended: Callable[[str], None]
) -> tuple[ReadyAgents, ...]:
    """Flush part-filled batches; if there are none, apply the `on_idle` policy.

    Does nothing if the job has changed since *revision*. Calls *mark_ended*, which takes a job off the live index, if
    the job ends. Returns the agents that are ready now; the caller announces them.
    """
    if plan.batches:
        flushed = store.scripts.flush(job, revision, plan.batches)
        if flushed.waiting or flushed.word is not ReplyCode.FLUSHED:
            return flushed.waiting
    end = _end(store, job, plan)
    if store.scripts.settle(job, revision, end, plan.nodes.keys()) is ReplyCode.SETTLED and end is not None:
        mark_ended(job.job_id)
    return ()


def _end(store: Store, job: JobRef, plan: Plan) -> JobEnd | None:
    match plan.on_idle:
        case OnIdle.WAIT:
            return None
        case OnIdle.FAIL:
            return failed(None, 'the job became idle and policies.on_idle is "fail"')
        case OnIdle.COMPLETE:
            try:
                return completed(store.last_bodies(job.job_id, plan.sinks), store.settings.max_message_bytes)
            except RecordDamaged as error:
                return failed(None, f"the job's output cannot be collected: {error}")


def end_after(plan: Plan, claims: Sequence[Claim], steps: Sequence[Step], max_bytes: int) -> JobEnd | None:
    """How the job ends if it is idle once *steps*, the runs of *claims*, are committed.

    None if the last bodies of its sinks cannot be known from these alone.
    """
    if plan.on_idle is not OnIdle.COMPLETE or plan.batches or len(plan.sinks) > len(steps):
        return None
    runs = {claim.agent_id: (claim, step) for claim, step in zip(claims, steps, strict=False)}
    bodies: dict[str, Any] = {}
    for sink in plan.sinks:
        if sink not in runs:
            return None
        claim, step = runs[sink]
        if step.threshold or plan.nodes[sink].threshold:
            return None  # messages may wait for more
        if step.output:
            bodies[sink] = decode(step.output)
        elif step.last and not claim.processed:  # else it may have emitted something earlier
            bodies[sink] = decode(step.last)["body"]
        else:
            return None
    return completed(bodies, max_bytes)


def completed(bodies: Mapping[str, Any], max_bytes: int) -> JobEnd:
    """The end of an idle job whose sinks have these last *bodies*; a failure if they exceed the cap of a message."""
    try:
        result = encode({"agent_id": None, "output": bodies})
    except ValueError as error:  # a body at the nesting limit of messages is too deep inside the output
        return failed(None, f"the job's output cannot be written as JSON: {error}")
    if len(result) > max_bytes:
        name = f"MIRROR_NEURON_MAX_MESSAGE_BYTES ({max_bytes} bytes)"
        return failed(None, f"the job's output has {len(result)} bytes, which exceeds {name}")
    return JobEnd(JobStatus.COMPLETED, result, encode({"agent_id": None}))


def failed(agent: str | None, error: str, details: dict[str, object] | None = None) -> JobEnd:
    """The end of a job that fails for a reason outside any run of an agent."""
    summary = {"agent_id": agent, "error": error}
    return JobEnd(JobStatus.FAILED, encode({**summary, "details": details or {}}), encode(summary))
