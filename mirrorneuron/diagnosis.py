"""Why a job does not move: from the facts about it to one cause, since when, and what to do. Pure.

The checks stand in order of precedence: what needs somebody to act goes before what mends itself, and that before
what is well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypedDict

from mirrorneuron.job import TERMINAL, AgentSnapshot, Event, JobMap, JobStatus, NodeInfo, iso
from mirrorneuron.keys import LIGHT
from mirrorneuron.manifest import AgentType
from mirrorneuron.plan import Plan

SILENT: Final = 0.5  # of a lease: renewals come at every third of it, so one that has less left has missed some
SHOWN: Final = 3  # names in one line


class Cause(StrEnum):
    ENDED = "ended"
    PAUSED = "paused"
    STORE_AWAY = "store_away"
    BROKER_AWAY = "broker_away"
    NO_NODE = "no_node"  #: no node serves a pool that an agent waits for
    DEAD_NODE = "dead_node"  #: an agent is held by a worker that is silent
    NOT_OPENED = "not_opened"  #: no worker has taken up the job yet
    RUNNING = "running"  #: it moves
    SLOTS_BUSY = "slots_busy"
    QUEUED = "queued"  #: a free slot will take it
    RETRY_WAIT = "retry_wait"  #: a failed run waits for its next attempt
    WAITING_OUTSIDE = "waiting_outside"  #: for a message from outside
    INCOMPLETE = "incomplete"  #: an aggregator waits for messages that nobody will send
    IDLE = "idle"


class Diagnosis(TypedDict):
    """Why a job does not move."""

    job_id: str
    cause: str  #: a Cause
    since: str | None
    agent_id: str | None
    pool: str | None
    message: str  #: one line: what holds it up
    hint: str  #: one line: what to do


@dataclass(frozen=True, slots=True)
class Held:
    """An agent that a worker has claimed."""

    agent_id: str
    node: str
    since_ms: int
    until_ms: int  #: end of its lease


@dataclass(frozen=True, slots=True)
class Due:
    """The agents of one pool that are ready."""

    agent_id: str  #: the first of them
    at_ms: int  #: from which it may be claimed
    count: int
    attempts: int  #: failed runs of its message
    error: str  #: of the last one


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a diagnosis rests on."""

    now_ms: int
    job: JobMap
    plan: Plan
    nodes: Sequence[NodeInfo]
    lease_ms: int
    held: Sequence[Held] = ()
    due: Mapping[str, Due] = field(default_factory=dict)  #: by pool
    agents: Sequence[AgentSnapshot] = ()  #: of a job in which nothing can act
    paused: Event | None = None  #: the last event that says so
    broker_error: str = ""
    busy: Sequence[str] = ()  #: what else holds slots, as `job/agent`

    def serving(self, pool: str) -> list[NodeInfo]:
        return [node for node in self.nodes if pool in node["pools"] and not node["stopping"]]


def diagnose(facts: Facts) -> Diagnosis:
    """The first check that has something to say."""
    return next(found for check in CHECKS if (found := check(facts)) is not None)


def store_away(job_id: str, error: str) -> Diagnosis:
    """The diagnosis where nothing can be read."""
    hint = "start the server, or set MIRROR_NEURON_REDIS_URL; jobs go on when it is back"
    found: Diagnosis = {
        "job_id": job_id,
        "cause": Cause.STORE_AWAY,
        "since": None,
        "agent_id": None,
        "pool": None,
        "message": error,
        "hint": hint,
    }
    return found


def _say(
    facts: Facts,
    cause: Cause,
    message: str,
    hint: str,
    *,
    since: str | None = None,
    agent: str | None = None,
    pool: str | None = None,
) -> Diagnosis:
    return {
        "job_id": facts.job["job_id"],
        "cause": cause,
        "since": since,
        "agent_id": agent,
        "pool": pool,
        "message": message,
        "hint": hint,
    }


def _ended(facts: Facts) -> Diagnosis | None:
    job, result = facts.job, facts.job["result"] or {}
    if job["status"] not in TERMINAL:
        return None
    agent = result.get("agent_id")
    said = {
        JobStatus.COMPLETED: "the job is completed",
        JobStatus.FAILED: f"the job failed{f' in {agent}' if agent else ''}: {result.get('error')}",
        JobStatus.CANCELLED: f"the job was cancelled by {result.get('by', 'somebody')}: {result.get('reason')}",
    }[JobStatus(job["status"])]
    again = f"mn retry {job['job_id']} goes on where it stopped"
    hint = "nothing is left to do" if job["status"] == JobStatus.COMPLETED else again
    return _say(facts, Cause.ENDED, said, hint, since=job["finished_at"], agent=agent)


def _paused(facts: Facts) -> Diagnosis | None:
    if facts.job["status"] != JobStatus.PAUSED:
        return None
    event = facts.paused
    payload = (event.get("payload") if event else None) or {}
    agent = event.get("agent_id") if event else None
    said = f"paused by {payload.get('by', 'somebody')}"
    if agent:  # recovery_mode manual_recover
        said = f"paused because the worker that ran {agent} was lost, and its recovery_mode is manual_recover"
    since = event["timestamp"] if event else None
    return _say(facts, Cause.PAUSED, said, f"mn resume {facts.job['job_id']} goes on", since=since, agent=agent)


def _broker_away(facts: Facts) -> Diagnosis | None:
    if not facts.broker_error:
        return None
    return _say(facts, Cause.BROKER_AWAY, facts.broker_error, "start it, or set MIRROR_NEURON_BROKER_URL")


def _no_node(facts: Facts) -> Diagnosis | None:
    pending = facts.job["status"] == JobStatus.PENDING
    wanted = {LIGHT: ""} if pending else {pool: due.agent_id for pool, due in facts.due.items()}
    for pool, agent in wanted.items():
        if facts.serving(pool):
            continue
        since = facts.job["submitted_at"] if pending else iso(facts.due[pool].at_ms)
        if not facts.nodes:
            said, hint = "no node is alive", "start one: mn worker"
        elif pool == LIGHT:
            said, hint = "no node serves light agents", "start one: mn worker"
        else:
            others = _some(sorted({pool for node in facts.nodes for pool in node["pools"]} - {LIGHT}))
            said = f"no node serves pool {pool!r}, which {agent} needs; served: {others or 'none'}"
            hint = f"start one: mn worker --pool {pool}"
        return _say(facts, Cause.NO_NODE, said, hint, since=since, agent=agent or None, pool=pool)
    return None


def _dead_node(facts: Facts) -> Diagnosis | None:
    alive = {node["name"] for node in facts.nodes}
    for held in facts.held:
        left_ms = held.until_ms - facts.now_ms
        if held.node in alive and left_ms > SILENT * facts.lease_ms:
            continue
        said = f"{held.agent_id} is held by worker {held.node}, which is silent; taken up in {_seconds(left_ms)}"
        if not facts.nodes:
            return _say(facts, Cause.NO_NODE, f"{said} of a node", "start one: mn worker", agent=held.agent_id)
        silent_since = iso(held.until_ms - facts.lease_ms)
        hint = "wait: another worker runs it again"
        return _say(facts, Cause.DEAD_NODE, said, hint, since=silent_since, agent=held.agent_id)
    return None


def _not_opened(facts: Facts) -> Diagnosis | None:
    if facts.job["status"] != JobStatus.PENDING:
        return None
    queued = [node["pools"][LIGHT]["queued"] for node in facts.serving(LIGHT)]
    ahead = f"; {queued[0]} tasks wait in the queue" if queued and queued[0] else ""
    said = f"no worker has taken up the job yet{ahead}"
    hint = "wait: it is announced again after 5 s, and ever less often"
    return _say(facts, Cause.NOT_OPENED, said, hint, since=facts.job["submitted_at"], pool=LIGHT)


def _running(facts: Facts) -> Diagnosis | None:
    if not facts.held:
        return None
    first = min(facts.held, key=lambda held: held.since_ms)
    more = f" (and {len(facts.held) - 1} more)" if len(facts.held) > 1 else ""
    said = f"{first.agent_id}{more} runs on {first.node} for {_seconds(facts.now_ms - first.since_ms)}"
    hint = f"see what it says: mn logs {facts.job['job_id']} {first.agent_id} --follow"
    return _say(facts, Cause.RUNNING, said, hint, since=iso(first.since_ms), agent=first.agent_id)


def _waiting_for_a_slot(facts: Facts) -> Diagnosis | None:
    for pool, due in facts.due.items():
        if due.at_ms > facts.now_ms:
            continue
        since, count = iso(due.at_ms), f"{due.count} agents" if due.count > 1 else due.agent_id
        pools = [node["pools"][pool] for node in facts.serving(pool)]
        slots, in_use = sum(p["slots"] for p in pools), sum(p["in_use"] for p in pools)
        if pool != LIGHT and in_use >= slots:
            holders = f": {_some(facts.busy)}" if facts.busy else ""
            said = f"{count} waits for a slot of pool {pool!r}: all {slots} are busy{holders}"
            hint = f"wait, or start more workers: mn worker --pool {pool}"
            return _say(facts, Cause.SLOTS_BUSY, said, hint, since=since, agent=due.agent_id, pool=pool)
        queued = next((p["queued"] for p in pools if p["queued"]), 0)
        said = f"{count} waits in pool {pool!r} behind {queued} tasks, with {slots - in_use} free slots"
        hint = "wait: what was announced and is not picked up is announced again after 5 s, and ever less often"
        return _say(facts, Cause.QUEUED, said, hint, since=since, agent=due.agent_id, pool=pool)
    return None


def _retry_wait(facts: Facts) -> Diagnosis | None:
    if not facts.due:
        return None
    pool, due = min(facts.due.items(), key=lambda row: row[1].at_ms)
    wait = _seconds(due.at_ms - facts.now_ms)
    said = f"{due.agent_id} runs in {wait}"
    if due.attempts:
        said = f"{due.agent_id} is tried again in {wait}, after {due.attempts} failed runs: {due.error}"
    return _say(facts, Cause.RETRY_WAIT, said, "wait", since=facts.job["updated_at"], agent=due.agent_id, pool=pool)


def _starved(facts: Facts) -> Diagnosis | None:
    """An aggregator that nobody can feed any more, or that waits with a sensor before it."""
    sensors = [node for node in facts.plan.nodes.values() if node.agent_type == AgentType.SENSOR]
    fed = {name for sensor in sensors for name in facts.plan.behind(sensor.node_id)}
    for agent in facts.agents:
        need = facts.plan.nodes[agent["agent_id"]].need
        have = agent["mailbox_depth"] + int(agent["metadata"].get("collected", 0))
        if agent["agent_type"] != AgentType.AGGREGATOR or not need or agent["agent_id"] in fed or not have:
            continue
        said = (
            f"{agent['agent_id']} has {have} of {need} messages, and nobody upstream can still send{_unrouted(facts)}"
        )
        hint = (
            f"send the rest (mn send {facts.job['job_id']} {agent['agent_id']} -), or mn cancel it and mend the graph"
        )
        since = facts.job["idle_since"] or facts.job["updated_at"]
        return _say(facts, Cause.INCOMPLETE, said, hint, since=since, agent=agent["agent_id"])
    return None


def _idle(facts: Facts) -> Diagnosis:
    since = facts.job["idle_since"] or facts.job["updated_at"]
    for node in facts.plan.nodes.values():
        if node.agent_type == AgentType.SENSOR:
            said = f"waiting for a message from outside at {node.node_id}"
            hint = f"mn send {facts.job['job_id']} {node.node_id} message.json"
            return _say(facts, Cause.WAITING_OUTSIDE, said, hint, since=since, agent=node.node_id)
    said = f"nothing is left to do, and its on_idle policy is to wait{_unrouted(facts)}"
    hint = f"mn send {facts.job['job_id']} AGENT message.json feeds it, mn cancel {facts.job['job_id']} ends it"
    return _say(facts, Cause.IDLE, said, hint, since=since)


def _unrouted(facts: Facts) -> str:
    """What an idle job has lost on the way: the usual reason why one stops short."""
    lost = {agent["agent_id"]: int(agent["metadata"].get("unrouted", 0)) for agent in facts.agents}
    names = [name for name, count in lost.items() if count]
    return f"; {sum(lost.values())} messages of {_some(names)} matched no edge" if names else ""


CHECKS: Final[tuple[Callable[[Facts], Diagnosis | None], ...]] = (
    _ended,
    _paused,
    _broker_away,
    _no_node,
    _dead_node,
    _not_opened,
    _running,
    _waiting_for_a_slot,
    _retry_wait,
    _starved,
    _idle,
)


def _seconds(ms: int) -> str:
    return f"{max(0, ms) / 1000:.0f} s"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
