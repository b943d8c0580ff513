"""The rules of a job's mail and claims in plain Python: what the scripts are compared with.

Written from the contract: an agent is ready while the job lives, nobody has claimed it, and its mailbox holds what it
needs; whoever has waited longest is claimed first; a commit with a token that is not the holder's does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mirrorneuron.claim import End, Step, Word
from mirrorneuron.job import TERMINAL, JobStatus
from mirrorneuron.scripts import Wanted
from tests.scripts.stage import Kind


@dataclass
class Mailbox:
    """One agent."""

    name: str
    kind: Kind
    need: int
    mail: list[bytes] = field(default_factory=list)
    holder: str = ""
    until_ms: int = 0  #: the end of its lease
    due_ms: int = 0
    ready_ms: int | None = None  #: from when it may be claimed; None while it is not ready
    state: bytes = b""
    processed: int = 0
    attempts: int = 0

    @property
    def can_act(self) -> bool:
        return not self.holder and len(self.mail) >= max(1, self.need)


@dataclass
class Answer:
    word: Word
    idle: bool = False
    claims: list[tuple[str, tuple[bytes, ...]]] = field(default_factory=list)
    waiting: dict[str, tuple[int, int]] = field(default_factory=dict)  #: pool -> (due, of these first told of now)


class Job:
    """One job. Times are in milliseconds; every method that moves something takes the present one."""

    def __init__(self, kinds: dict[str, Kind], lease_ms: int) -> None:
        self.agents = {name: Mailbox(name, kind, kind.need) for name, kind in kinds.items()}
        self.lease_ms = lease_ms
        self.status = JobStatus.PENDING
        self.result = b""
        self.moves = 0
        self.waits = False
        self.ends: list[JobStatus] = []
        self._made: dict[str, int] = {}

    @property
    def live(self) -> bool:
        return self.status not in TERMINAL

    @property
    def idle(self) -> bool:
        return self.status is JobStatus.RUNNING and not any(a.holder or a.can_act for a in self.agents.values())

    def ready(self, pool: str) -> dict[str, int]:
        return {n: a.ready_ms for n, a in self.agents.items() if a.kind.pool == pool and a.ready_ms is not None}

    def create(self, now: int, mail: Iterable[tuple[str, bytes]]) -> None:
        for name, message in mail:
            self.agents[name].mail.append(message)
        self._look(now)

    def claim(self, now: int, token: str, wanted: Wanted, agents: Sequence[str] = (), opening: bool = False) -> Answer:
        self._made = {}
        if not self.live:
            return Answer(Word.ENDED)
        if opening and self.status is JobStatus.PENDING:
            self.status = JobStatus.RUNNING
            self._made = {a.kind.pool: len(self.ready(a.kind.pool)) for a in self.agents.values()}
        taken = self._take_run(now, token, agents) if agents else self._take_first(now, token, wanted)
        return self._answer(Word.CLAIMED, now, taken)

    def commit(self, now: int, token: str, steps: Sequence[Step], next_token: str, wanted: Wanted) -> Answer:
        self._made = {}
        if not self.live:
            return Answer(Word.ENDED)
        if any(self.agents[step.agent_id].holder != token for step in steps):
            return Answer(Word.STALE)
        if any(step.alone and self.agents[step.agent_id].mail for step in steps):
            return Answer(Word.MOVED)
        for step in steps:
            agent = self.agents[step.agent_id]
            agent.holder = ""
            del agent.mail[: step.consumed]
            agent.state = step.state or agent.state
            agent.processed, agent.attempts = step.processed, step.attempts
            agent.need = agent.need if step.need is None else step.need
            agent.due_ms = 0 if step.delay_ms is None else now + step.delay_ms
        for target, message in (row for step in steps for row in step.outgoing):
            self.agents[target].mail.append(message)
        self.moves += 1
        if end := next((step.end for step in steps if step.end), None):
            self._end(end)
            return Answer(Word.COMMITTED)
        self.waits = False
        self._look(now)
        return self._answer(Word.COMMITTED, now, self._take_first(now, next_token, wanted))

    def renew(self, now: int, token: str, agents: Sequence[str]) -> Word:
        if not self.live:
            return Word.ENDED
        if any(self.agents[name].holder != token for name in agents):
            return Word.STALE
        for name in agents:
            self.agents[name].until_ms = now + self.lease_ms
        return Word.RENEWED

    def flush(self, now: int, moves: int, agents: Sequence[str]) -> Answer:
        self._made = {}
        if not self.live:
            return Answer(Word.ENDED)
        if self.status is not JobStatus.RUNNING or moves != self.moves:
            return Answer(Word.MOVED)
        if self.idle:
            for name in agents:
                if self.agents[name].mail:
                    self.agents[name].need = 1
            self._look(now)
        return Answer(Word.FLUSHED, waiting={pool: (due, due) for pool, (due, _) in self._waiting(now).items()})

    def settle(self, moves: int, end: End | None) -> Word:
        if not self.live:
            return Word.ENDED
        if moves != self.moves or not self.idle:
            return Word.MOVED
        if end is None:
            self.waits = True
        else:
            self._end(end)
        return Word.SETTLED

    def finish(self, end: End) -> Word:
        if not self.live:
            return Word.ENDED
        self._end(end)
        return Word.SETTLED

    def _end(self, end: End) -> None:
        self.status, self.result, self.waits = end.status, end.result, False
        self.ends.append(end.status)
        for agent in self.agents.values():
            agent.holder, agent.ready_ms = "", None

    def _look(self, now: int) -> None:
        """Who has become ready?"""
        for agent in self.agents.values():
            if agent.ready_ms is None and agent.can_act:
                agent.ready_ms = max(now, agent.due_ms)
                if agent.due_ms <= now:
                    self._made[agent.kind.pool] = self._made.get(agent.kind.pool, 0) + 1

    def _take(self, now: int, token: str, agent: Mailbox) -> tuple[str, tuple[bytes, ...]]:
        agent.holder, agent.until_ms, agent.ready_ms, agent.due_ms = token, now + self.lease_ms, None, 0
        return agent.name, tuple(agent.mail[: agent.kind.take])

    def _due(self, now: int, pool: str) -> list[Mailbox]:
        due = sorted((at, name) for name, at in self.ready(pool).items() if at <= now)
        return [self.agents[name] for _, name in due]

    def _take_first(self, now: int, token: str, wanted: Wanted) -> list[tuple[str, tuple[bytes, ...]]]:
        if self.status is not JobStatus.RUNNING:
            return []
        found = next((due[:most] for pool, most in wanted if (due := self._due(now, pool))), [])
        return [self._take(now, token, agent) for agent in found]

    def _take_run(self, now: int, token: str, names: Sequence[str]) -> list[tuple[str, tuple[bytes, ...]]]:
        first, *others = (self.agents[name] for name in names)
        if self.status is not JobStatus.RUNNING or first not in self._due(now, first.kind.pool):
            return []
        taken = [self._take(now, token, first)]
        for agent in others:
            if agent.holder or agent.mail:
                break
            taken.append(self._take(now, token, agent))
        return taken

    def _answer(self, word: Word, now: int, claims: list[tuple[str, tuple[bytes, ...]]]) -> Answer:
        return Answer(word, self.idle and not claims, claims, self._waiting(now))

    def _waiting(self, now: int) -> dict[str, tuple[int, int]]:
        if self.status is not JobStatus.RUNNING:
            return {}
        pools = {agent.kind.pool for agent in self.agents.values()}
        due = {pool: len(self._due(now, pool)) for pool in pools}
        return {pool: (n, min(n, self._made.get(pool, 0))) for pool, n in due.items() if n}
