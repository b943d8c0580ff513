"""Read from the store the facts that a diagnosis of one job needs, in a few round trips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from mirrorneuron.bundle.manifest import AgentType
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.diagnostics.job_diagnosis import ClaimedAgent, DueAgents, JobFacts, StarvedAggregator
from mirrorneuron.errors import JobNotFound
from mirrorneuron.job import TERMINAL, AgentSnapshot, Event, EventType, JobMap, JobStatus
from mirrorneuron.pools import LIGHT
from mirrorneuron.store import records
from mirrorneuron.store.job_store import Store

LOOKED_AT: Final = 50  # claims of this job, and of each other job when slots are taken
JOBS: Final = 500  # live jobs whose claims are read
EVENTS: Final = 1000  # newest events that are searched for job_paused

Row: TypeAlias = tuple[bytes, float]  # member and score of a ZSET


def facts_of(store: Store, job: JobMap, *, broker_error: str = "") -> JobFacts:
    """Return the facts that `diagnose` needs. Raises JobNotFound and BundleNotFound."""
    job_id = job["job_id"]
    plan, _ = store.plan(job["manifest_ref"]["digest"])
    now_ms, job, claims, held_count, ready = _moment(store, job_id, plan)
    status = JobStatus(job["status"])
    if status in TERMINAL:
        return JobFacts(now_ms, job, plan, store.settings.claim_lease_ms)
    held, due = _details(store, job_id, claims, ready, now_ms)
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
        held_count=held_count,
        due=due,
        short=short_of(plan, agents),
        unrouted=unrouted_of(plan, agents),
        dead_letters=store.client.xlen(store.keys.dead(job_id)) if stuck else 0,
        paused=_paused(store, job_id) if status is JobStatus.PAUSED else None,
        broker_error=broker_error,
        busy=_busy(store, wanted) if wanted else {},
    )


def _moment(store: Store, job_id: str, plan: Plan) -> tuple[int, JobMap, list[Row], int, dict[str, Row]]:
    """The server's time, the job, its first claims by end of lease, their number, and each pool's first ready agent.

    One transaction: between two reads an agent could go from ready to claimed, and would be seen as neither.
    """
    pipe = store.client.pipeline(transaction=True)
    pipe.time()
    pipe.hmget(store.keys.job(job_id), records.JOB_FIELDS)
    pipe.zrange(store.keys.claims(job_id), 0, LOOKED_AT - 1, withscores=True)
    pipe.zcard(store.keys.claims(job_id))
    for pool in plan.pools:
        pipe.zrange(store.keys.ready(job_id, pool), 0, 0, withscores=True)
    (seconds, micros), row, claims, held_count, *ready = pipe.execute()
    job = records.job_map(job_id, row)
    if job is None:
        raise JobNotFound(job_id)
    first = {pool: rows[0] for pool, rows in zip(plan.pools, ready, strict=True) if rows}
    return int(seconds) * 1000 + int(micros) // 1000, job, claims, held_count, first


def _details(
    store: Store, job_id: str, claims: Sequence[Row], ready: Mapping[str, Row], now_ms: int
) -> tuple[list[ClaimedAgent], dict[str, DueAgents]]:
    pipe, fields = store.client.pipeline(transaction=False), ["node", "claimed_at", "attempts", "error"]
    for name, _ in claims:
        pipe.hmget(store.keys.agent(job_id, name.decode()), fields)
    for pool, (name, _) in ready.items():
        pipe.hmget(store.keys.agent(job_id, name.decode()), fields)
        pipe.zcount(store.keys.ready(job_id, pool), "-inf", now_ms)
    rows, at = pipe.execute(), len(claims)
    with records.reading(f"an agent of job {job_id!r}"):
        held = [
            ClaimedAgent(name.decode(), _text(node), int(since or until), int(until), int(attempts or 0), _text(error))
            for (name, until), (node, since, attempts, error) in zip(claims, rows[:at], strict=True)
        ]
        due = {
            pool: DueAgents(name.decode(), int(due_ms), max(1, count), int(attempts or 0), _text(error))
            for (pool, (name, due_ms)), (_, _, attempts, error), count in zip(
                ready.items(), rows[at::2], rows[at + 1 :: 2], strict=True
            )
        }
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


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _paused(store: Store, job_id: str) -> Event | None:
    recent = store.events(job_id, limit=EVENTS)
    return next((event for event in reversed(recent) if event["type"] == EventType.JOB_PAUSED), None)


def _busy(store: Store, pools: Sequence[str]) -> dict[str, list[str]]:
    """The agents of any live job that hold slots of *pools*, as `job/agent`; incomplete above JOBS and LOOKED_AT."""
    live = store.index.live()[:JOBS]
    pipe = store.client.pipeline(transaction=False)
    for job_id in live:
        pipe.zrange(store.keys.claims(job_id), 0, LOOKED_AT - 1)
    claims = [(job_id, name.decode()) for job_id, names in zip(live, pipe.execute(), strict=True) for name in names]
    for job_id, agent in claims[:JOBS]:
        pipe.hget(store.keys.agent(job_id, agent), "pool")
    found: dict[str, list[str]] = {pool: [] for pool in pools}
    for (job_id, agent), raw in zip(claims, pipe.execute(), strict=False):
        if (pool := _text(raw)) in found:
            found[pool].append(f"{job_id}/{agent}")
    return {pool: sorted(names) for pool, names in found.items()}
