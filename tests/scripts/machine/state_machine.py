"""The base of the state machine: a stage, a model, and calls that are made to both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from mirrorneuron.bundle.manifest import Policies, RecoveryMode
from mirrorneuron.job import JobStatus
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import Claim, ControlReply, JobEnd, JobRef, ReadyAgents, Reply, ReplyCode, new_token
from mirrorneuron.store.scripts import Limits, Wanted
from tests.scripts.machine.acts import Actor
from tests.scripts.machine.controls import Controlled
from tests.scripts.machine.ledger import Ledger
from tests.scripts.machine.model import Answer, Job, Reported
from tests.scripts.machine.recovery import Recovery
from tests.scripts.machine.stage import (
    BATCH_OF_TWO,
    DEFAULT,
    EXECUTOR,
    JOB,
    JOIN_OF_THREE,
    LEASE_MS,
    MAX_MAIL_BYTES,
    Kind,
    Stage,
    cancelled,
    completed,
    failed,
)

KINDS = {
    "a": Kind(),
    "b": Kind(),
    "c": Kind(),
    "join": JOIN_OF_THREE,
    "x": EXECUTOR,
    "y": EXECUTOR,
    "batch": BATCH_OF_TWO,
}
POOLS = (LIGHT, DEFAULT)
RUNS = (
    ("a",),
    ("a", "c"),
    ("a", "c", "b"),
    ("b", "c"),
    ("c",),
    ("x", "y", "c"),
    ("y", "c"),
    ("join",),
    ("x",),
    ("y",),
    ("batch",),
)

agents = st.sampled_from(sorted(KINDS))
pools_wanted = st.permutations([(LIGHT, 2), (DEFAULT, 1)]) | st.sampled_from([((LIGHT, 1),), ((DEFAULT, 2),)])
targets = st.lists(agents, min_size=1, max_size=4)
ends = st.sampled_from([*[failed(), cancelled()] * 4, completed()])  # a retry may continue only the first two
rarely = st.integers(0, 19).map(lambda n: n == 1)
policies = st.builds(
    Policies,
    recovery_mode=st.sampled_from(RecoveryMode),
    max_agent_restart_attempts=st.sampled_from([2, 1, 1, 0]),
    job_timeout_ms=st.sampled_from([None, None, 30_000]),
    idle_timeout_ms=st.sampled_from([None, 6_000]),
)


@dataclass(frozen=True)
class ClaimedAgent:
    """A claim that a worker believes to be its own."""

    job: JobRef
    token: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Call:
    """A call of a script and the same call of the model. It can be repeated after the job has changed."""

    script: Callable[[], Reply | ControlReply | ReplyCode]
    rule: Callable[[], Answer | Controlled | ReplyCode]


class Base(Actor):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(self.url, KINDS, limits=Limits(MAX_MAIL_BYTES, 1_000, 2**20))
        self.job = Job(KINDS, LEASE_MS, max_mail_bytes=MAX_MAIL_BYTES)
        self.recovery = Recovery(self.job)
        self.ledger = Ledger()
        self.held: list[ClaimedAgent] = []
        self.over: list[ClaimedAgent] = []  # committed, refused or lost: these must not be committed again
        self.again: list[Call] = []  # calls that may be repeated because their reply was lost

    @property
    def now(self) -> int:
        return self.stage.now

    @property
    def ref(self) -> JobRef:
        return JOB._replace(run=self.job.run)

    @initialize(to=targets, policies=policies, opened=st.integers(0, 4))
    def create(self, to: list[str], policies: Policies, opened: int) -> None:
        self.job.policies = self.stage.policies = policies
        mail = [(agent, self.ledger.new()) for agent in to]
        self.ledger.sent(message for _, message in mail)
        self.job.create(self.now, mail)
        assert self.stage.create(*mail) == (ReplyCode.CREATED, "pending")
        assert self.stage.create(*mail) == (ReplyCode.EXISTS, "pending")
        assert self.stage.create(*mail, digest="another") == (ReplyCode.CONFLICT, "pending")
        if opened:
            self.claim(self.ref, [(LIGHT, 1)], opening=True)

    def ready_run(self, data: st.DataObject) -> tuple[str, ...]:
        """One of RUNS whose first agent is ready, if there is one."""
        ready = [run for run in RUNS if self.job.agents[run[0]].ready_ms is not None]
        return data.draw(st.sampled_from(ready or RUNS), label="run")

    def claim(
        self, job: JobRef, wanted: Wanted, run: Sequence[str] = (), opening: bool = False, repeated: bool = False
    ) -> Reply:
        token = new_token()
        call = Call(
            lambda: self.stage.scripts.claim(job, token, wanted, agents=run, opening=opening),
            lambda: self.job.claim(self.now, job.run, token, wanted, run, opening),
        )
        self.again.append(call)
        reply: Reply = self.ask(call, repeated)
        return reply

    def settle(self, job: JobRef, revision: int, end: JobEnd | None, repeated: bool = False) -> None:
        call = Call(
            lambda: self.stage.scripts.settle(job, revision, end, list(KINDS)),
            lambda: self.job.settle(self.now, job.run, revision, end),
        )
        self.ask(call, repeated)
        self.let_go()

    def finish(self, job: JobRef, end: JobEnd, repeated: bool = False) -> None:
        call = Call(
            lambda: self.stage.scripts.finish(job, end, list(KINDS)),
            lambda: self.job.finish(self.now, job.run, end),
        )
        self.ask(call, repeated)
        self.let_go()

    def let_go(self) -> None:
        """The end of the job releases all claims."""
        if not self.job.live:
            self.over += self.held
            self.held = []

    def ask(self, call: Call, repeated: bool = False) -> Any:
        """Make *call*, and repeat it if *repeated*, as a client does that lost the reply. Returns the first reply."""
        reply = self._once(call)
        if repeated:
            self._once(call)
        return reply

    def _once(self, call: Call) -> Reply | ControlReply | ReplyCode:
        reply, expected = call.script(), call.rule()
        if isinstance(reply, Reply):
            assert isinstance(expected, Answer)
            self._compare(reply, expected)
        elif isinstance(reply, ControlReply):
            assert isinstance(expected, Controlled)
            assert (reply.word, reply.status) == (expected.word, expected.status)
            self.compare_waiting(reply.waiting, expected.waiting)
        else:
            assert reply is expected
        return reply

    def _compare(self, reply: Reply, expected: Answer) -> None:
        assert (reply.word, reply.idle, reply.ended) == (expected.word, expected.idle, expected.ended)
        assert [(c.agent_id, c.mail) for c in reply.claims] == expected.claims
        self.compare_waiting(reply.waiting, expected.waiting)
        for claim in reply.claims:
            agent = self.job.agents[claim.agent_id]
            assert (claim.state, claim.processed, claim.attempts) == (agent.state, agent.processed, agent.attempts)
        if reply.word in (ReplyCode.CLAIMED, ReplyCode.COMMITTED, ReplyCode.FLUSHED) and self.job.live:
            assert reply.revision == self.job.revision
        if reply.claims and all(reply.token != held.token for held in self.held):
            self.held.append(ClaimedAgent(self.ref, reply.token, reply.claims))

    def compare_waiting(self, rows: tuple[ReadyAgents, ...], expected: Reported) -> None:
        assert {row.pool: (row.due, row.new) for row in rows} == expected
        for row in rows:  # a single agent is named, so that its chain can announce it
            assert row.due > 1 or row.agent_id in self.job.ready(row.pool)


def alive(machine: Base) -> bool:
    return machine.job.live


def running(machine: Base) -> bool:
    return machine.job.status is JobStatus.RUNNING
