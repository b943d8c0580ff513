"""A stage for the scripts: one job in a separate namespace of a real server, with a clock that the test sets."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from mirrorneuron.bundle.manifest import Policies
from mirrorneuron.job import JobStatus
from mirrorneuron.message import encode
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.connection import RedisClient
from mirrorneuron.store.keys import Keys
from mirrorneuron.store.protocol import (
    Announcement,
    Claim,
    JobEnd,
    JobRef,
    Reply,
    ReplyCode,
    Step,
    SweepReply,
    new_token,
)
from mirrorneuron.store.scripts import NO_LIMITS, Limits, Scripts, Wanted

JOB = JobRef("job-1", 1, "digest")
LEASE_MS = 6_000
MAX_MAIL_BYTES = 160  # some 20 messages of the state machine
KEEP_S = 3_600  # the keys of an ended job expire
NOON_MS = 1_700_000_000_000
DEFAULT = "default"
AGENTS = (*"abcdxyz", "join", "batch")  # names that the tests use
WIDE = Limits(mail_bytes=2**28, events=100_000, event_bytes=2**26)
ANY_LIGHT: Wanted = ((LIGHT, 128),)
ANY_HEAVY: Wanted = ((DEFAULT, 1),)


@dataclass(frozen=True)
class Kind:
    """The settings of an agent that are stored when its job is created."""

    pool: str = LIGHT
    threshold: int = 1
    take: int | None = None

    @property
    def plain(self) -> bool:
        return self == Kind()


EXECUTOR = Kind(DEFAULT, take=1)
BATCH_OF_TWO = Kind(DEFAULT, threshold=2, take=2)
JOIN_OF_THREE = Kind(threshold=3)


class Stage:
    """One job under test. *kinds* names the agents that are not plain light ones."""

    def __init__(
        self,
        url: str,
        kinds: Mapping[str, Kind] | None = None,
        policies: Policies = NO_LIMITS,
        limits: Limits = WIDE,
    ) -> None:
        self.redis: RedisClient = redis.Redis.from_url(url)
        self.keys = Keys(f"scripts-{secrets.token_hex(6)}")
        self.now = NOON_MS
        self.kinds = dict(kinds or {})
        self.policies = policies
        self.scripts = Scripts(
            self.redis,
            self.keys,
            node="node-1",
            lease_ms=LEASE_MS,
            keep_s=KEEP_S,
            limits=limits,
            clock=lambda: self.now,
        )

    def create(
        self,
        *mail: tuple[str, bytes],
        digest: str = "digest",
        inputs_digest: str = "inputs",
        announcement: Announcement | None = None,
    ) -> tuple[ReplyCode, str]:
        kinds = [(name, kind) for name, kind in self.kinds.items() if not kind.plain]
        pools = sorted({LIGHT, *(kind.pool for kind in self.kinds.values())})
        created = self.scripts.create(
            JOB.job_id,
            digest=digest,
            inputs_digest=inputs_digest,
            static=b"{}",
            names=encode(AGENTS),
            pools=pools,
            policies=self.policies,
            agents="".join(f"{name}\t{k.pool}\t{k.threshold}\t{k.take or ''}\n" for name, k in kinds),
            mail=mail,
            announcement=announcement,
        )
        return created.word, created.status

    def open(self, *mail: tuple[str, bytes]) -> Stage:
        """Create the job with *mail* and open it, without a claim."""
        self.create(*mail)
        self.scripts.claim(JOB, new_token(), ((LIGHT, 0),), opening=True)
        return self

    def claim(self, *agents: str, token: str = "") -> Reply:
        """Claim the first of *agents*, and the others together with it."""
        pool = self.kinds.get(agents[0], Kind()).pool
        return self.scripts.claim(JOB, token or new_token(), ((pool, 1),), agents=agents)

    def sweep(self, *, now_ms: int | None = None, after_gap: bool = False, set_back: bool = False) -> SweepReply:
        at_ms = self.now if now_ms is None else now_ms
        (swept,) = self.scripts.sweep_all([JOB.job_id], now_ms=at_ms, after_gap=after_gap, set_back=set_back)
        assert not isinstance(swept, Exception), swept
        return swept

    def finish(self, end: JobEnd) -> ReplyCode:
        return self.scripts.finish(JOB, end, AGENTS)

    def answer(self, claim: Claim, *outgoing: tuple[str, bytes]) -> Step:
        """The step that consumes all mail of *claim* and sends *outgoing*."""
        taken = len(claim.mail)
        return Step(
            claim.agent_id,
            taken,
            claim.processed + taken,
            outgoing=list(outgoing),
            consumed_bytes=sum(map(len, claim.mail[:taken])),
        )

    def run(self, agent: str, *outgoing: tuple[str, bytes]) -> Reply:
        """Claim *agent*, answer all its mail with *outgoing*, and commit."""
        reply = self.claim(agent)
        return self.scripts.commit(JOB, reply.token, [self.answer(reply.claims[0], *outgoing)], new_token())

    def mail(self, agent: str) -> list[bytes]:
        found: list[bytes] = self.redis.lrange(self.keys.mail(JOB.job_id, agent), 0, -1)
        return found

    def agent(self, agent: str, field: str) -> str:
        return str(self.redis.hget(self.keys.agent(JOB.job_id, agent), field) or b"", "utf-8")

    def job(self, field: str) -> str:
        return str(self.redis.hget(self.keys.job(JOB.job_id), field) or b"", "utf-8")

    @property
    def revision(self) -> int:
        return int(self.job("revision"))

    def ready(self, pool: str = LIGHT) -> dict[str, int]:
        """The ready agents of *pool*, and from when they are due (ms)."""
        rows = self.redis.zrange(self.keys.ready(JOB.job_id, pool), 0, -1, withscores=True)
        return {name.decode(): int(due) for name, due in rows}

    def claims(self) -> dict[str, int]:
        """The claimed agents, and until when (ms)."""
        rows = self.redis.zrange(self.keys.claims(JOB.job_id), 0, -1, withscores=True)
        return {name.decode(): int(until) for name, until in rows}

    def events(self) -> list[str]:
        return [fields[b"t"].decode() for _, fields in self.redis.xrange(self.keys.events(JOB.job_id))]

    def everything(self, events_from: str = "-") -> dict[str, Any]:
        """The contents of all keys of the job by their suffixes, without the marks of claims and commits."""
        stem, agents = self.keys.job(JOB.job_id), sorted({*AGENTS, *self.kinds})
        pools = sorted({LIGHT, *(kind.pool for kind in self.kinds.values())})
        hashes = ["", *(f":agent:{name}" for name in agents)]
        lists = [f":mail:{name}" for name in agents]
        sets = [":claims", ":delivered", *(f":ready:{pool}" for pool in pools)]
        pipe = self.redis.pipeline(transaction=False)
        for suffix in hashes:
            pipe.hgetall(stem + suffix)
        for suffix in lists:
            pipe.lrange(stem + suffix, 0, -1)
        for suffix in sets:
            pipe.zrange(stem + suffix, 0, -1, withscores=True)
        pipe.xrange(f"{stem}:events", events_from)
        found = zip([*hashes, *lists, *sets, ":events"], pipe.execute(), strict=True)
        return {suffix: value for suffix, value in found if value}

    def lifetimes(self) -> dict[str, int]:
        """The time to live of each key of the job in seconds (-1: none), by its suffix."""
        names = list(self.redis.scan_iter(f"{self.keys.job(JOB.job_id)}*", count=10_000))
        pipe = self.redis.pipeline(transaction=False)
        for name in names:
            pipe.ttl(name)
        stem = self.keys.job(JOB.job_id)
        return dict(zip((name.decode().removeprefix(stem) for name in names), pipe.execute(), strict=True))


def completed(result: bytes = b'{"agent_id":null,"output":1}') -> JobEnd:
    return JobEnd(JobStatus.COMPLETED, result, b"{}")


def failed(result: bytes = b'{"agent_id":null,"error":"e","details":{}}') -> JobEnd:
    return JobEnd(JobStatus.FAILED, result, b"{}")


def cancelled() -> JobEnd:
    return JobEnd(JobStatus.CANCELLED, b'{"reason":"r"}', b"{}")


def rows(reply: Reply) -> dict[str, tuple[int, int, str]]:
    """The reply's waiting rows: pool -> (due, new, the agent if it is a single one)."""
    return {row.pool: (row.due, row.new, row.agent_id if row.due == 1 else "") for row in reply.waiting}


def names(claims: Sequence[Claim]) -> list[str]:
    return [claim.agent_id for claim in claims]
