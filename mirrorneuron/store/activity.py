"""Reads of claimed and ready agents, for diagnoses and audits. The reads change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mirrorneuron.errors import JobNotFound
from mirrorneuron.job import JobMap
from mirrorneuron.store import records
from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.keys import Keys


class AgentTime(NamedTuple):
    """An agent and its score in a ZSET, in ms: the end of its lease, or the time from which it may be claimed."""

    agent_id: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class JobMoment:
    """A job as it was in one transaction."""

    now_ms: int  #: the server's time
    job: JobMap
    claims: list[AgentTime]  #: the claims whose lease ends first
    claim_count: int  #: the number of all claims
    ready: dict[str, AgentTime]  #: pool -> its ready agent that may be claimed first


@dataclass(frozen=True, slots=True)
class AgentDetails:
    """What is stored about the current or next run of an agent."""

    node: str  #: the worker that claimed the agent last
    claimed_at_ms: int | None
    attempts: int  #: failed runs of the message at the head of the mailbox
    error: str  #: of the last failed run


class Activity:
    """Reads of the claims and ready sets of one namespace."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def moment(self, job_id: str, pools: Sequence[str], max_claims: int) -> JobMoment:
        """Read a job, up to *max_claims* of its claims, and the first ready agent of each pool. Raises JobNotFound.

        One transaction: between two reads an agent could go from ready to claimed, and seem to be neither.
        """
        pipe = self._client.pipeline(transaction=True)
        pipe.time()
        pipe.hmget(self._keys.job(job_id), records.JOB_FIELDS)
        pipe.zrange(self._keys.claims(job_id), 0, max_claims - 1, withscores=True)
        pipe.zcard(self._keys.claims(job_id))
        for pool in pools:
            pipe.zrange(self._keys.ready(job_id, pool), 0, 0, withscores=True)
        (seconds, micros), row, claims, claim_count, *ready = pipe.execute()
        job = records.job_map(job_id, row)
        if job is None:
            raise JobNotFound(job_id)
        with records.reading(f"an agent of job {job_id!r}"):
            return JobMoment(
                now_ms=int(seconds) * 1000 + int(micros) // 1000,
                job=job,
                claims=[_agent_time(*claim) for claim in claims],
                claim_count=claim_count,
                ready={pool: _agent_time(*rows[0]) for pool, rows in zip(pools, ready, strict=True) if rows},
            )

    def details(self, moment: JobMoment) -> tuple[list[AgentDetails], dict[str, tuple[AgentDetails, int]]]:
        """Return the details of the claimed agents of *moment*, in its order; and for each pool with a ready agent,
        the details of the first one and the number of agents that may be claimed at that moment. One round trip.
        """
        job_id = moment.job["job_id"]
        pipe, fields = self._client.pipeline(transaction=False), ["node", "claimed_at", "attempts", "error"]
        for claimed in moment.claims:
            pipe.hmget(self._keys.agent(job_id, claimed.agent_id), fields)
        for pool, first in moment.ready.items():
            pipe.hmget(self._keys.agent(job_id, first.agent_id), fields)
            pipe.zcount(self._keys.ready(job_id, pool), "-inf", moment.now_ms)
        rows, at = pipe.execute(), len(moment.claims)
        with records.reading(f"an agent of job {job_id!r}"):
            counted = zip(map(_details, rows[at::2]), rows[at + 1 :: 2], strict=True)
            return [_details(row) for row in rows[:at]], dict(zip(moment.ready, counted, strict=True))

    def slot_holders(
        self, job_ids: Sequence[str], pools: Sequence[str], *, max_claims: int, max_agents: int
    ) -> dict[str, list[str]]:
        """For each of *pools*, the claimed agents of *job_ids* that hold its slots, as `job/agent`. Two round trips.

        Reads at most *max_claims* claims of each job, and at most *max_agents* agents.
        """
        pipe = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.zrange(self._keys.claims(job_id), 0, max_claims - 1)
        rows = zip(job_ids, pipe.execute(), strict=True)
        claimed = [(job_id, name.decode()) for job_id, names in rows for name in names][:max_agents]
        for job_id, agent in claimed:
            pipe.hget(self._keys.agent(job_id, agent), "pool")
        found: dict[str, list[str]] = {pool: [] for pool in pools}
        for (job_id, agent), raw in zip(claimed, pipe.execute(), strict=True):
            if (pool := _text(raw)) in found:
                found[pool].append(f"{job_id}/{agent}")
        return found

    def jobs_by_pool(self, job_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """For each pool: how many of *job_ids* have agents in it, and how many of these have a ready one.

        Two round trips.
        """
        pipe = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hget(self._keys.job(job_id), "pools")
        rows = [
            (job_id, pool) for job_id, raw in zip(job_ids, pipe.execute(), strict=True) for pool in _text(raw).split()
        ]
        for job_id, pool in rows:
            pipe.zcard(self._keys.ready(job_id, pool))
        found: dict[str, tuple[int, int]] = {}
        for (_, pool), ready in zip(rows, pipe.execute(), strict=True):
            jobs, waiting = found.get(pool, (0, 0))
            found[pool] = (jobs + 1, waiting + bool(ready))
        return found

    def claimed_agents(self, job_id: str) -> list[str]:
        """Return the agents in the claims of a job, the one whose lease ends first at the front."""
        return [name.decode() for name in self._client.zrange(self._keys.claims(job_id), 0, -1)]

    def has_token(self, job_id: str, agent: str) -> bool:
        """Return True if the record of *agent* holds the token of a claim."""
        return bool(self._client.hget(self._keys.agent(job_id, agent), "token"))


def _agent_time(name: bytes, score: float) -> AgentTime:
    return AgentTime(name.decode(), int(score))


def _details(row: records.Raw) -> AgentDetails:
    node, claimed_at, attempts, error = row
    return AgentDetails(_text(node), int(claimed_at) if claimed_at else None, int(attempts or 0), _text(error))


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
