"""What must hold after any kills: each message took effect once, every job ended, and nothing is left behind.

`of_job` checks one job, `of_store` the whole store. Both return the violations; an empty list means that all is well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from mirrorneuron.diagnostics.job_diagnosis import diagnose
from mirrorneuron.diagnostics.job_facts import facts_of
from mirrorneuron.job import TERMINAL, AgentSnapshot, Event, EventType, JobMap, JobStatus
from mirrorneuron.message import encode
from mirrorneuron.store.job_store import Store

ENDS: Final = frozenset({EventType.JOB_COMPLETED, EventType.JOB_FAILED, EventType.JOB_CANCELLED})
RERUNS: Final = frozenset({EventType.AGENT_RECOVERY_STARTED, EventType.EXECUTOR_RETRY})
NO_TTL: Final = -1


class Flaw(StrEnum):
    """The kind of a violation."""

    LOST = "lost"  #: an effect is missing
    DOUBLED = "doubled"  #: an effect counts twice
    DISORDERED = "disordered"  #: messages of one sender arrived in another order
    STUCK = "stuck"  #: the job has not ended
    LEAKED = "leaked_keys"  #: a key without a live job and without a TTL
    CLAIMED = "claims_left"  #: an ended job still holds a claim


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong."""

    flaw: Flaw
    where: str  #: a job id or a key
    what: str
    count: int = 1  #: how many effects, keys or claims

    def __str__(self) -> str:
        return f"{self.flaw}: {self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected outcome of a job."""

    processed: Mapping[str, int]  #: agent id -> number of messages that it consumes
    messages: tuple[Any, ...] | None = None  #: bodies that the final aggregator collects
    ordered: bool = False  #: whether `messages` must be in this order
    output: Any = None  #: the job's output, if `messages` is None
    runs: Mapping[str, int] = field(default_factory=dict)  #: agent id -> number of runs, for agents that handle batches


def of_job(store: Store, job_id: str, expected: Expected) -> list[Violation]:
    """Return the violations of a job that should have completed. Reads only."""
    job = store.read_job(job_id)
    if job is None:
        return [Violation(Flaw.LOST, job_id, "the job has no record in the store")]
    status = JobStatus(job["status"])
    agents = store.agents(job)
    if status not in TERMINAL:
        why = diagnose(facts_of(store, job))["message"]
        stuck = Violation(Flaw.STUCK, job_id, f"the job is {status}: {_standing(agents)}; why: {why}")
        return [stuck, *claims(store, job_id, agents)]
    events = store.events(job_id)
    found = [*_ends(job, events), *_consumed(job_id, agents, expected), *_recorded(job_id, events, expected)]
    if status is JobStatus.COMPLETED:
        found += _output(job_id, (job["result"] or {}).get("output"), expected)
    return [*found, *claims(store, job_id, agents)]


def of_store(store: Store) -> list[Violation]:
    """Return what ended jobs have left behind. Reads only; scans every key of the namespace."""
    found = [Violation(Flaw.LEAKED, key, "the key belongs to no live job and has no TTL") for key in leaked_keys(store)]
    for job_id in store.index.live():
        job = store.read_job(job_id)
        if job is None or JobStatus(job["status"]) in TERMINAL:
            said = "has ended" if job else "does not exist"
            found.append(Violation(Flaw.LEAKED, job_id, f"the job is in the live index and {said}"))
    return found


def leaked_keys(store: Store) -> list[str]:
    """Return the keys that would stay for ever: without a live job, without a TTL, and not an index (see `keys`)."""
    keys = store.keys
    indexes = {
        *map(keys.of_status, TERMINAL),
        keys.jobs,
        keys.live,
        keys.due,
        keys.ended,
        keys.swept,
        keys.nodes,
    }
    live = {keys.job(job_id) for job_id in store.index.live()}
    for_ever = {keys.job(job["job_id"]) for job in store.jobs()} if not store.settings.retention_seconds else set()
    suspects = []
    for name in store.audit.names():
        stem = name[: name.find("}") + 1]
        if name not in indexes and stem not in live and stem not in for_ever and not _kept(store, name):
            suspects.append(name)
    return sorted(name for name, left in store.audit.times_to_live(suspects) if left == NO_TTL)


def claims(store: Store, job_id: str, agents: list[AgentSnapshot]) -> Iterator[Violation]:
    """Yield a violation if the job, which has ended, still holds claims."""
    held = store.activity.claimed_agents(job_id)
    names = [agent["agent_id"] for agent in agents]
    held += [name for name in names if name not in held and store.activity.has_token(job_id, name)]
    if held:
        yield Violation(Flaw.CLAIMED, job_id, f"these agents are still claimed: {', '.join(held)}", len(held))


def reruns(events: Iterable[Event]) -> int:
    """Return how many times a message was run again after its worker or its run was lost."""
    return sum(event["type"] in RERUNS for event in events)


def _kept(store: Store, name: str) -> bool:
    """Is it a manifest or bundle in a store that keeps them for ever?"""
    return not store.settings.retention_seconds and name.startswith((store.keys.manifest(""), store.keys.bundle("")))


def _ends(job: JobMap, events: list[Event]) -> Iterator[Violation]:
    job_id, ends = job["job_id"], [event["type"] for event in events if event["type"] in ENDS]
    if job["status"] != JobStatus.COMPLETED:
        result = job["result"] or {}
        why = result.get("error") or result.get("reason")
        yield Violation(Flaw.LOST, job_id, f"the job ended {job['status']}: {result.get('agent_id')}: {why}")
    elif not ends:
        yield Violation(Flaw.LOST, job_id, "no event records the end of the job")
    if len(ends) > 1:
        yield Violation(Flaw.DOUBLED, job_id, f"the job ended {len(ends)} times: {', '.join(ends)}", len(ends) - 1)
    repeated = sum(event["type"] == EventType.AGGREGATOR_DUPLICATE_IGNORED for event in events)
    if repeated:
        yield Violation(Flaw.DOUBLED, job_id, "an aggregator received messages twice", repeated)


def _consumed(job_id: str, agents: list[AgentSnapshot], expected: Expected) -> Iterator[Violation]:
    """Check that every message was consumed once, and that none is unread."""
    for agent in agents:
        name, wanted = agent["agent_id"], expected.processed.get(agent["agent_id"], 0)
        yield from _compared(job_id, f"messages that agent {name} consumed", agent["processed_messages"], wanted)
        if agent["mailbox_depth"]:
            count = agent["mailbox_depth"]
            yield Violation(Flaw.LOST, job_id, f"agent {name} has unread messages: {count}", count)


def _recorded(job_id: str, events: list[Event], expected: Expected) -> Iterator[Violation]:
    """Check that the events, which are committed with each run, count the same numbers of messages."""
    counted: Counter[str] = Counter()
    for event in events:
        payload = event.get("payload") or {}
        match event["type"]:
            case EventType.AGENT_MESSAGE_RECEIVED | EventType.AGGREGATOR_RECEIVED:
                counted[event["agent_id"]] += payload["count"]
            case EventType.SANDBOX_JOB_COMPLETED | EventType.SENSOR_OBSERVED:
                counted[event["agent_id"]] += 1
            case _:
                pass
    for agent, wanted in {**expected.processed, **expected.runs}.items():
        yield from _compared(job_id, f"messages or runs of agent {agent} in the events", counted[agent], wanted)


def _output(job_id: str, output: Any, expected: Expected) -> Iterator[Violation]:
    if expected.messages is None:
        if output != expected.output:
            yield Violation(Flaw.LOST, job_id, f"the job's output is {output!r}, expected {expected.output!r}")
        return
    got = output.get("messages", []) if isinstance(output, dict) else []
    ours, theirs = Counter(map(encode, expected.messages)), Counter(map(encode, got))
    for flaw, difference in ((Flaw.LOST, ours - theirs), (Flaw.DOUBLED, theirs - ours)):
        if count := difference.total():
            sample = b", ".join(list(difference)[:10]).decode()
            yield Violation(flaw, job_id, f"messages of the job's output: {sample}", count)
    if ours == theirs and expected.ordered and list(expected.messages) != got:
        yield Violation(Flaw.DISORDERED, job_id, f"the messages of the job's output are in another order: {got!r}")


def _compared(job_id: str, what: str, got: int, wanted: int) -> Iterator[Violation]:
    if got != wanted:
        flaw = Flaw.LOST if got < wanted else Flaw.DOUBLED
        yield Violation(flaw, job_id, f"{what}: {got}, expected {wanted}", abs(got - wanted))


def _standing(agents: list[AgentSnapshot]) -> str:
    """Describe the agents that have unread messages or are running."""
    words = [
        f"agent {agent['agent_id']} is {agent['status']} with {agent['mailbox_depth']} unread messages after"
        f" {agent['processed_messages']} consumed ones"
        for agent in agents
        if agent["mailbox_depth"] or agent["status"] in ("busy", "running")
    ]
    return "; ".join(words) or "no agent has anything to do"
