"""What the store knows about one job at one moment: the facts of a diagnosis, in a few reads."""

from __future__ import annotations

from itertools import islice
from typing import Final

from mirrorneuron.diagnosis import Due, Facts, Held
from mirrorneuron.job import TERMINAL, JobMap, JobStatus
from mirrorneuron.keys import LIGHT
from mirrorneuron.store import Store

LOOKED_AT: Final = 50  # live jobs that are asked what they run, and agents of one job that are looked at


def facts_of(store: Store, job: JobMap, *, broker_error: str = "") -> Facts:
    """Everything that `diagnose` needs. Raises BundleNotFound."""
    job_id, live = job["job_id"], JobStatus(job["status"]) not in TERMINAL
    plan, _ = store.plan(job["manifest_ref"]["digest"])
    held = _held(store, job_id) if live else []
    due = {pool: found for pool in plan.pools if live and (found := _due(store, job_id, pool))}
    nodes = store.nodes() if live else []
    stuck = job["status"] == JobStatus.RUNNING and not held and not due
    paused = None
    if job["status"] == JobStatus.PAUSED:
        recent = store.events(job_id, limit=LOOKED_AT)
        paused = next((event for event in reversed(recent) if event["type"] == "job_paused"), None)
    waiting = any(pool != LIGHT for pool in due) and not held
    return Facts(
        now_ms=store.now_ms(),
        job=job,
        plan=plan,
        nodes=nodes,
        lease_ms=store.settings.claim_lease_ms,
        held=held,
        due=due,
        agents=store.agents(job) if stuck else (),
        paused=paused,
        broker_error=broker_error if live else "",
        busy=_busy(store) if waiting else (),
    )


def _held(store: Store, job_id: str) -> list[Held]:
    rows = store.client.zrange(store.keys.claims(job_id), 0, LOOKED_AT - 1, withscores=True)
    found = []
    for name, until in rows:
        agent = name.decode()
        node, since = store.client.hmget(store.keys.agent(job_id, agent), ["node", "claimed_at"])
        found.append(Held(agent, (node or b"").decode(), int(since or 0), int(until)))
    return found


def _due(store: Store, job_id: str, pool: str) -> Due | None:
    key = store.keys.ready(job_id, pool)
    rows = store.client.zrange(key, 0, 0, withscores=True)
    if not rows:
        return None
    agent = rows[0][0].decode()
    attempts, error = store.client.hmget(store.keys.agent(job_id, agent), ["attempts", "error"])
    return Due(agent, int(rows[0][1]), store.client.zcard(key), int(attempts or 0), (error or b"").decode())


def _busy(store: Store) -> list[str]:
    """What runs now, in any job, as `job/agent`."""
    found = []
    for job_id in islice(store.live_ids(), LOOKED_AT):
        names = store.client.zrange(store.keys.claims(job_id), 0, LOOKED_AT - 1)
        found += [f"{job_id}/{name.decode()}" for name in names]
    return sorted(found)
