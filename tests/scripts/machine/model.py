"""A model of a job's mail and claims in plain Python, with which the scripts are compared.

It follows the contract: an agent is ready while the job is live, the agent is not claimed, and its mailbox holds at
least its threshold; the agent that is ready for longest is claimed first; a commit with a stale token does nothing; a
repeated call gets the same reply. The models of controls and sweeps are in `controls` and `recovery`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mirrorneuron.bundle.manifest import Policies
from mirrorneuron.job import TERMINAL, JobStatus
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import JobEnd, ReplyCode, Step
from mirrorneuron.store.scripts import NO_LIMITS, Wanted
from tests.scripts.machine.stage import Kind

Reported = dict[str, tuple[int, int]]  # pool -> (due, of these reported for the first time)


@dataclass
class Agent:
    """One agent: its mailbox, its claim, and the results of its runs."""

    name: str
    kind: Kind
    threshold: int
    mail: list[bytes] = field(default_factory=list)
    holder: str = ""  #: token of its claim
    until_ms: int = 0  #: the end of its lease
    due_ms: int = 0
    ready_ms: int | None = None  #: from when it may be claimed; None while it is not ready
    state: bytes = b""
    last: bytes = b""  #: the last message that it consumed
    output: bytes = b""
    error: bytes = b""
    processed: int = 0
    attempts: int = 0
    losses: int = 0  #: workers that died since its last commit
    interrupted: bool = False  #: a claim was freed since its last commit
    lost: list[str] = field(default_factory=list)  #: the tokens of their claims
    beside: int = 0  #: losses in a row that did not count, because its run had not begun alone
    alone: str = ""  #: token of the last run that began while no other one went on in its worker
    fresh_ms: int | None = None  #: the end of the last lease that it got after a gap
    delay_ms: int = 0  #: from its last commit to `due_ms`
    cut: bool = False  #: the job ended while the agent was claimed

    @property
    def can_act(self) -> bool:
        return not self.holder and len(self.mail) >= max(1, self.threshold)


@dataclass
class Answer:
    word: ReplyCode
    idle: bool = False
    ended: bool = False
    claims: list[tuple[str, tuple[bytes, ...]]] = field(default_factory=list)
    waiting: Reported = field(default_factory=dict)


class Job:
    """One job. Times are in milliseconds; each method that changes something takes the present time."""

    def __init__(
        self, kinds: dict[str, Kind], lease_ms: int, policies: Policies = NO_LIMITS, max_mail_bytes: int = 2**28
    ) -> None:
        self.agents = {name: Agent(name, kind, kind.threshold) for name, kind in kinds.items()}
        self.lease_ms = lease_ms
        self.max_mail_bytes = max_mail_bytes
        self.policies = policies
        self.status = JobStatus.PENDING
        self.opened = False
        self.started_ms: int | None = None
        self.resumed_ms = 0
        self.run = 1
        self.result = b""
        self.revision = 0
        self.aged_from_ms = 0
        self.finished_ms: int | None = None
        self.idle_since_ms: int | None = None  #: set when the job was settled to wait
        self.delivered: set[str] = set()  #: ids of messages from outside
        self.asked: set[str] = set()  #: tokens of claims
        self.landed: set[tuple[str, bool]] = set()  #: (token, early) of commits
        self.log: list[tuple[str, str]] = []  #: events: (type, agent)
        self._made: Counter[str] = Counter()  #: agents that became ready within this call, by pool

    @property
    def live(self) -> bool:
        return self.status not in TERMINAL

    @property
    def idle(self) -> bool:
        return self.status is JobStatus.RUNNING and not any(a.holder or a.can_act for a in self.agents.values())

    @property
    def mail_bytes(self) -> int:
        return sum(len(message) for agent in self.agents.values() for message in agent.mail)

    def has_room_for(self, bytes_: int) -> bool:
        """True if mail of that many bytes more fits, or if the mail does not grow."""
        return bytes_ <= 0 or self.mail_bytes + bytes_ <= self.max_mail_bytes

    def ready(self, pool: str) -> dict[str, int]:
        return {n: a.ready_ms for n, a in self.agents.items() if a.kind.pool == pool and a.ready_ms is not None}

    def held(self, token: str | None = None) -> list[Agent]:
        """The claimed agents, under *token* or any token, the shortest lease first."""
        found = (a for a in self.agents.values() if a.holder and token in (None, a.holder))
        return sorted(found, key=lambda agent: (agent.until_ms, agent.name))

    def create(self, now: int, mail: Iterable[tuple[str, bytes]]) -> None:
        self.aged_from_ms = now
        self.record("job_pending", "job_validated")
        for name, message in mail:
            self.agents[name].mail.append(message)
        self.look(now)

    def claim(
        self, now: int, run: int, token: str, wanted: Wanted, agents: Sequence[str] = (), opening: bool = False
    ) -> Answer:
        if refused := self._refused(run):
            return Answer(refused)
        self.begin()
        if opening and self.status is JobStatus.PENDING:
            self.status, self.opened, self.started_ms = JobStatus.RUNNING, True, now
            self.record("job_scheduled", "job_running")
            self._made = Counter(a.kind.pool for a in self.agents.values() if a.ready_ms is not None)
        if token in self.asked:
            return self._again(ReplyCode.CLAIMED, now, token)
        if self.status is JobStatus.PAUSED:
            return Answer(ReplyCode.PAUSED)
        self.asked.add(token)
        taken = self._take_run(now, token, agents) if agents else self._take_first(now, token, wanted)
        return self._answer(ReplyCode.CLAIMED, now, taken)

    def commit(
        self,
        now: int,
        run: int,
        token: str,
        steps: Sequence[Step],
        next_token: str,
        wanted: Wanted,
        early: bool,
        idle_end: JobEnd | None,
    ) -> Answer:
        end, part = next((step.end for step in steps if step.end), None), (token, early)
        asked = end or idle_end
        if asked and part in self.landed and self.status is asked.status:
            return Answer(ReplyCode.COMMITTED, ended=True)
        if refused := self._refused(run):
            return Answer(refused)
        self.begin()
        if part in self.landed:
            return self._again(ReplyCode.COMMITTED, now, next_token)
        if self._is_stale(token, [step.agent_id for step in steps]):
            return Answer(ReplyCode.STALE)
        if any((step.inline_only or step.goes_on) and self.agents[step.agent_id].mail for step in steps):
            return Answer(ReplyCode.MOVED)
        sent = [message for step in steps for _, message in step.outgoing]
        if sent and not self.has_room_for(sum(map(len, sent)) - sum(step.consumed_bytes for step in steps)):
            return Answer(ReplyCode.FULL)
        for step in steps:
            if not step.goes_on:
                self._land(now, step)
        for target, message in (row for step in steps for row in step.outgoing):
            self.agents[target].mail.append(message)
        self.landed.add(part)
        self.revision += 1
        if end:
            self._end(now, end)
            return Answer(ReplyCode.COMMITTED, ended=True)
        self.idle_since_ms = None
        self.look(now)
        answer = self._answer(ReplyCode.COMMITTED, now, self._take_first(now, next_token, wanted))
        if answer.idle and idle_end:
            self._end(now, idle_end)
            answer.idle, answer.ended = False, True
        return answer

    def renew(self, now: int, run: int, token: str, agents: Sequence[str], alone: bool = False) -> ReplyCode:
        if refused := self._refused(run):
            return refused
        if self._is_stale(token, agents):
            return ReplyCode.STALE
        for name in agents:
            self.agents[name].until_ms = now + self.lease_ms
            if alone:
                self.agents[name].alone = token
        return ReplyCode.RENEWED

    def flush(self, now: int, run: int, revision: int, agents: Sequence[str]) -> Answer:
        if refused := self._refused(run):
            return Answer(refused)
        self.begin()
        if self.status is not JobStatus.RUNNING or revision != self.revision:
            return Answer(ReplyCode.MOVED)
        if self.idle:
            for name in agents:
                if self.agents[name].mail:
                    self.agents[name].threshold = 1
            self.look(now)
        return Answer(ReplyCode.FLUSHED, waiting=self.waiting(now, report_all=True))

    def settle(self, now: int, run: int, revision: int, end: JobEnd | None) -> ReplyCode:
        if refused := self._refused(run):
            return refused
        if revision != self.revision or not self.idle:
            return ReplyCode.MOVED
        if end is not None:
            self._end(now, end)
        elif self.idle_since_ms is None:
            self.idle_since_ms = now
            self.record("job_idle")
        return ReplyCode.SETTLED

    def finish(self, now: int, run: int, end: JobEnd) -> ReplyCode:
        if refused := self._refused(run):
            return refused
        self._end(now, end)
        return ReplyCode.SETTLED

    # -- helpers of the methods above, and of the models of controls and sweeps ---------------------------------------

    def begin(self) -> None:
        """Begin a call: no agent has become ready in it yet."""
        self._made = Counter()

    def record(self, *kinds: str, agent: str = "") -> None:
        self.log += [(kind, agent) for kind in kinds]

    def look(self, now: int) -> None:
        """Make the agents ready that can act now."""
        for agent in self.agents.values():
            if agent.ready_ms is None and agent.can_act:
                agent.ready_ms = max(now, agent.due_ms)
                self._made[agent.kind.pool] += agent.due_ms <= now
                if agent.kind.pool != LIGHT:
                    self.record("executor_lease_requested", agent=agent.name)

    def waiting(self, now: int, report_all: bool = False) -> Reported:
        """The agents that may be claimed now. With *report_all* all of them count as new."""
        if self.status is not JobStatus.RUNNING:
            return {}
        pools = {agent.kind.pool for agent in self.agents.values()}
        due = {pool: len(self._due(now, pool)) for pool in pools}
        return {pool: (n, n if report_all else min(n, self._made[pool])) for pool, n in due.items() if n}

    def _refused(self, run: int) -> ReplyCode | None:
        """The refusal of a call to an ended job, or of a call of an earlier run; else None."""
        if not self.live:
            return ReplyCode.ENDED
        return ReplyCode.STALE if run != self.run else None

    def _is_stale(self, token: str, names: Sequence[str]) -> bool:
        """True if *token* holds not all of these agents any more. Its worker lives, so its losses do not count."""
        stale = [self.agents[name] for name in names if self.agents[name].holder != token]
        for agent in stale:
            if token in agent.lost:
                agent.lost.remove(token)
                agent.losses = max(0, agent.losses - 1)
        return bool(stale)

    def _land(self, now: int, step: Step) -> None:
        agent = self.agents[step.agent_id]
        del agent.mail[: step.consumed]
        agent.holder = ""
        if not step.not_run:
            agent.losses, agent.interrupted = 0, False
        agent.state, agent.last = step.state or agent.state, step.last or agent.last
        agent.output, agent.error = step.output or agent.output, step.error.encode()
        agent.processed, agent.attempts = step.processed, step.attempts
        agent.threshold = agent.threshold if step.threshold is None else step.threshold
        agent.due_ms, agent.delay_ms = (0, 0) if step.delay_ms is None else (now + step.delay_ms, step.delay_ms)
        self.log += [(kind, agent.name) for kind, _ in step.events]

    def _end(self, now: int, end: JobEnd) -> None:
        self.status, self.result, self.finished_ms, self.idle_since_ms = end.status, end.result, now, None
        self.record(f"job_{end.status}")
        for agent in self.agents.values():
            agent.cut = agent.cut or bool(agent.holder)
            agent.holder, agent.ready_ms = "", None

    def _take(self, now: int, token: str, agent: Agent) -> tuple[str, tuple[bytes, ...]]:
        agent.holder, agent.until_ms, agent.ready_ms, agent.due_ms = token, now + self.lease_ms, None, 0
        if agent.kind.pool != LIGHT:
            self.record("executor_lease_acquired", agent=agent.name)
        return agent.name, tuple(agent.mail[: agent.kind.take])

    def _due(self, now: int, pool: str) -> list[Agent]:
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
        return [self._take(now, token, agent) for agent in (first, *_free(others))]

    def _again(self, word: ReplyCode, now: int, token: str) -> Answer:
        """The reply to a repeated call: the claims of its token, with a new lease, and all ready agents."""
        claims = [self._take(now, token, agent) for agent in self.held(token)]
        return Answer(word, self.idle, False, claims, self.waiting(now, report_all=True))

    def _answer(self, word: ReplyCode, now: int, claims: list[tuple[str, tuple[bytes, ...]]]) -> Answer:
        return Answer(word, self.idle, False, claims, self.waiting(now))


def _free(agents: Iterable[Agent]) -> Iterator[Agent]:
    """The agents up to the first one that has mail or is claimed."""
    for agent in agents:
        if agent.holder or agent.mail:
            return
        yield agent
