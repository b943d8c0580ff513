"""The facts that a diagnosis of one job needs, and how to read them from the store in a few round trips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mirrorneuron.bundle.manifest import AgentType
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.job import TERMINAL, AgentSnapshot, Event, EventType, JobMap, JobStatus, NodeInfo
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.activity import JobMoment
from mirrorneuron.store.job_store import Store

LOOKED_AT: Final = 50  # claims of this job, and of each other job when slots are taken
JOBS: Final = 500  # live jobs whose claims are read
EVENTS: Final = 1000  # newest events that are searched for job_paused


@dataclass(frozen=True, slots=True)
class ClaimedAgent:
    """An agent that a worker has claimed."""

    agent_id: str
    node: str
    since_ms: int
    until_ms: int  #: end of the lease
    attempts: int = 0  #: failed runs of its message before the current run
    error: str = ""  #: of the last failed run


@dataclass(frozen=True, slots=True)
class DueAgents:
    """The agents of one pool that are ready."""

    agent_id: str  #: the agent that is due first
    at_ms: int  #: when it may be claimed
    count: int = 1  #: how many may be claimed now; 1 if the first is due later
    attempts: int = 0  #: failed runs of its message
    error: str = ""  #: of the last failed run


@dataclass(frozen=True, slots=True)
class StarvedAggregator:
    """An aggregator that holds fewer messages than its threshold."""

    agent_id: str
    have: int
    threshold: int
    fed: bool  #: a sensor is upstream, so a message from outside can still lead to more


@dataclass(frozen=True, slots=True)
class JobFacts:
    """The input of a diagnosis. The job, `held` and `due` were read in one transaction."""

    now_ms: int
    job: JobMap
    plan: Plan
    lease_ms: int
    nodes: Sequence[NodeInfo] = ()
    held: Sequence[ClaimedAgent] = ()  #: some of the claims, sorted by the end of their lease
    held_count: int = 0
    due: Mapping[str, DueAgents] = field(default_factory=dict)  #: by pool
    short: Sequence[StarvedAggregator] = ()  #: this and the next two are known only if no agent is claimed or due
    unrouted: Mapping[str, int] = field(default_factory=dict)  #: agent id -> its messages that matched no edge
    dead_letters: int = 0
    paused: Event | None = None  #: the last job_paused event
    broker_error: str = ""
    busy: Mapping[str, Sequence[str]] = field(default_factory=dict)  #: pool -> holders of its slots, as `job/agent`

    def serving(self, pool: str, slots: int = 1) -> list[NodeInfo]:
        """The nodes that serve *pool* with at least that many slots."""
        nodes = [node for node in self.nodes if pool in node["pools"] and not node["stopping"]]
        return [node for node in nodes if slots == 1 or node["pools"][pool]["slots"] >= slots]

    def slots(self, pool: str) -> int:
        """The slots that the agent of *pool* takes that is due first."""
        return self.plan.nodes[self.due[pool].agent_id].slots if pool in self.due else 1


def facts_of(store: Store, job: JobMap, *, broker_error: str = "") -> JobFacts:
    """Return the facts that `diagnose` needs. Raises JobNotFound and BundleNotFound."""
    job_id = job["job_id"]
    plan, _ = store.plan(job["manifest_ref"]["digest"])
    moment = store.activity.moment(job_id, plan.pools, LOOKED_AT)
    now_ms, job = moment.now_ms, moment.job
    status = JobStatus(job["status"])
    if status in TERMINAL:
        return JobFacts(now_ms, job, plan, store.settings.claim_lease_ms)
    held, due = _details(store, moment)
    stuck = status is JobStatus.RUNNING and not held and not due
    agents = store.agents(job) if stuck else []
    wanted = [pool for pool, row in due.items() if pool != LIGHT and row.at_ms <= now_ms and not held]
    return JobFacts(
        now_ms=now_ms,
        job=job,
        plan=plan,
        lease_ms=store.settings.claim_lease_ms,
        nodes=store.registry.nodes(),
        held=held,
        held_count=moment.claim_count,
        due=due,
        short=short_of(plan, agents),
        unrouted=unrouted_of(plan, agents),
        dead_letters=store.dead_letter_count(job_id) if stuck else 0,
        paused=_paused(store, job_id) if status is JobStatus.PAUSED else None,
        broker_error=broker_error,
        busy=_busy(store, wanted) if wanted else {},
    )


def _details(store: Store, moment: JobMoment) -> tuple[list[ClaimedAgent], dict[str, DueAgents]]:
    claimed, ready = store.activity.details(moment)
    held = []
    for claim, found in zip(moment.claims, claimed, strict=True):
        since_ms = claim.at_ms if found.claimed_at_ms is None else found.claimed_at_ms
        held.append(ClaimedAgent(claim.agent_id, found.node, since_ms, claim.at_ms, found.attempts, found.error))
    due = {}
    for pool, (found, count) in ready.items():
        first = moment.ready[pool]
        due[pool] = DueAgents(first.agent_id, first.at_ms, max(1, count), found.attempts, found.error)
    return held, due


def short_of(plan: Plan, agents: Sequence[AgentSnapshot]) -> list[StarvedAggregator]:
    """The aggregators with fewer messages than their threshold; empty ones only if they never fired. Pure."""
    sensors = [node.node_id for node in plan.nodes.values() if node.agent_type == AgentType.SENSOR]
    fed = {name for sensor in sensors for name in plan.downstream_of(sensor)}
    found = []
    for agent in agents:
        node, state = plan.nodes[agent["agent_id"]], agent["metadata"]
        threshold = 1 if node.config.get("complete_on_message") else node.config.get("complete_after")
        have = agent["mailbox_depth"] + int(state.get("collected", 0))
        if node.agent_type == AgentType.AGGREGATOR and threshold and (have or not state.get("fired")):
            found.append(StarvedAggregator(node.node_id, have, threshold, node.node_id in fed))
    return found


def unrouted_of(plan: Plan, agents: Sequence[AgentSnapshot]) -> dict[str, int]:
    """Count by agent the messages that matched no edge. Pure.

    The default output of an agent without outgoing edges has no recipient by design, and is not counted.
    """
    counts = {agent["agent_id"]: int(agent["metadata"].get("unrouted", 0)) for agent in agents}
    nodes = [(plan.nodes[name], count) for name, count in counts.items() if count]
    return {node.node_id: count for node, count in nodes if node.out_degree or node.config.get("output_message_type")}


def _paused(store: Store, job_id: str) -> Event | None:
    recent = store.events(job_id, limit=EVENTS)
    return next((event for event in reversed(recent) if event["type"] == EventType.JOB_PAUSED), None)


def _busy(store: Store, pools: Sequence[str]) -> dict[str, list[str]]:
    """The agents of any live job that hold slots of *pools*, as `job/agent`; incomplete above JOBS and LOOKED_AT."""
    live = store.index.live()[:JOBS]
    found = store.activity.slot_holders(live, pools, max_claims=LOOKED_AT, max_agents=JOBS)
    return {pool: sorted(names) for pool, names in found.items()}
