"""What becomes of a job in which nothing can act any more."""

from __future__ import annotations

from mirrorneuron.bundle.manifest import OnIdle
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.errors import RecordDamaged
from mirrorneuron.job import JobStatus
from mirrorneuron.message import encode
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import JobEnd, JobRef, ReadyAgents, ReplyCode


def settle(store: Store, job: JobRef, plan: Plan, revision: int) -> tuple[ReadyAgents, ...]:
    """Let part-filled batches go, or do as the idle policy says, unless something has moved since *revision*.

    Returns the agents that are ready now and have to be announced.
    """
    if plan.batches:
        flushed = store.scripts.flush(job, revision, plan.batches)
        if flushed.waiting or flushed.word is not ReplyCode.FLUSHED:
            return flushed.waiting
    end = _end(store, job, plan)
    if store.scripts.settle(job, revision, end, plan.nodes.keys()) is ReplyCode.SETTLED and end is not None:
        store.index.mark_ended([job.job_id])
    return ()


def _end(store: Store, job: JobRef, plan: Plan) -> JobEnd | None:
    match plan.on_idle:
        case OnIdle.WAIT:
            return None
        case OnIdle.FAIL:
            return failed(None, "the job became idle, and its on_idle policy is to fail")
        case OnIdle.COMPLETE:
            try:
                result = encode({"agent_id": None, "output": store.last_bodies(job.job_id, plan.sinks)})
            except ValueError as error:  # bodies nested as deeply as messages may be, one in another
                return failed(None, f"the job's output is not JSON: {error}")
            except RecordDamaged as error:
                return failed(None, f"the job's output: {error}")
            cap = store.settings.max_message_bytes
            if len(result) > cap:
                name = "MIRROR_NEURON_MAX_MESSAGE_BYTES"
                return failed(None, f"the job's output has {len(result)} bytes, which is over {name} ({cap})")
            return JobEnd(JobStatus.COMPLETED, result, encode({"agent_id": None}))


def failed(agent: str | None, error: str, details: dict[str, object] | None = None) -> JobEnd:
    """The end of a job that fails outside of a run."""
    summary = {"agent_id": agent, "error": error}
    return JobEnd(JobStatus.FAILED, encode({**summary, "details": details or {}}), encode(summary))
