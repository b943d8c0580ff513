"""A machine drives the scripts beside the model, in any order it can think of, and compares both after each step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mirrorneuron.claim import Claim, End, JobRef, Reply, Step, Word, new_token
from mirrorneuron.keys import LIGHT
from tests.scripts.model import Answer, Job
from tests.scripts.stage import (
    BATCH_OF_TWO,
    DEFAULT,
    EXECUTOR,
    JOB,
    JOIN_OF_THREE,
    LEASE_MS,
    Kind,
    Stage,
    cancelled,
    completed,
    failed,
)

SHORT = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
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
ENDS = (b"job_completed", b"job_failed", b"job_cancelled")

agents = st.sampled_from(sorted(KINDS))
wanted = st.lists(st.tuples(st.sampled_from(POOLS), st.integers(1, 3)), min_size=1, max_size=2)
targets = st.lists(agents, max_size=4)
ends = st.sampled_from([completed(), failed(), cancelled()])
rarely = st.integers(0, 19).map(lambda n: n == 0)


@dataclasses.dataclass(frozen=True)
class Held:
    """What a worker believes it holds."""

    token: str
    claims: tuple[Claim, ...]


class Machine(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(self.url, KINDS)
        self.job = Job(KINDS, LEASE_MS)
        self.held: list[Held] = []
        self.over: list[Held] = []  # committed, refused or lost: none of it may ever land again
        self.consumed: set[bytes] = set()
        self.sent: set[bytes] = set()
        self.seen = -1  # moves at which somebody last saw the job idle
        self.found: dict[str, Any] = {}
        self.again: list[Callable[[], object]] = []  # calls whose reply somebody may have lost

    def teardown(self) -> None:
        self.stage.redis.delete(*(self.stage.keys.job(JOB.job_id) + suffix for suffix in self.found))
        self.stage.redis.close()

    # -- what happens ------------------------------------------------------------------------------------------------

    @initialize(to=targets)
    def create(self, to: list[str]) -> None:
        mail = self._mail(to)
        self.job.create(self.stage.now, mail)
        assert self.stage.create(*mail) == (Word.CREATED, "pending")
        assert self.stage.create(*mail) == (Word.EXISTS, "pending")

    @rule(wanted=wanted, repeated=st.booleans())
    def open(self, wanted: list[tuple[str, int]], repeated: bool) -> None:
        self._claim(wanted, (), repeated, opening=True)

    @rule(wanted=wanted, repeated=st.booleans())
    def claim_any(self, wanted: list[tuple[str, int]], repeated: bool) -> None:
        self._claim(wanted, (), repeated)

    @rule(agent=agents, followers=st.sampled_from([(), ("b", "c"), ("c", "b")]), repeated=st.booleans())
    def claim_one(self, agent: str, followers: tuple[str, ...], repeated: bool) -> None:
        pool = KINDS[agent].pool
        run = (agent, *(name for name in followers if pool == LIGHT and name != agent))
        self._claim([(pool, 1)], run, repeated)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), wanted=wanted, go_on=st.booleans(), repeated=st.booleans())
    def commit(self, data: st.DataObject, wanted: list[tuple[str, int]], go_on: bool, repeated: bool) -> None:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        steps = [self._step(data, claim) for claim in held.claims]
        reply = self._commit(held, steps, wanted if go_on else [], repeated)
        if reply.word is Word.MOVED:  # as the worker does: the mail that came first is answered first
            steps = [Step(s.agent_id, processed=s.processed) if s.alone else s for s in steps]
            reply = self._commit(held, steps, wanted, repeated)
        assert reply.word in (Word.COMMITTED, Word.ENDED)
        self.over.append(held)

    @precondition(lambda self: self.over or self.held)
    @rule(data=st.data(), wanted=wanted, way=st.sampled_from(["over", "forged", "mixed", "run"]))
    def commit_what_is_not_held(self, data: st.DataObject, wanted: list[tuple[str, int]], way: str) -> None:
        """Stale tokens, tokens that nobody ever had, an agent too many, another run of the job: refused whole."""
        source = data.draw(st.sampled_from(self.over if way == "over" and self.over else self.held or self.over))
        steps = [Step(c.agent_id, len(c.mail), 99, b"[0]", outgoing=[("a", b"stray")]) for c in source.claims]
        job, token = (JobRef(JOB.job_id, 2, JOB.digest) if way == "run" else JOB), source.token
        if way == "forged":
            token = new_token()
        if way == "mixed":
            others = sorted(set(KINDS) - {c.agent_id for c in source.claims})
            steps.append(Step(data.draw(st.sampled_from(others)), 1, 99))
        if way == "over" and source not in self.over:
            return
        before = self.stage.everything()
        reply = self.stage.scripts.commit(job, token, steps, new_token(), wanted)
        if way != "forged" and source in self.over and reply.word is Word.COMMITTED:
            # It landed long ago and is answered again. To the worker that is a commit; to the store it is nothing.
            assert not reply.claims
        else:
            assert (reply.word, reply.claims) == (Word.STALE if self.job.live else Word.ENDED, ())
        assert self.stage.everything() == before

    @precondition(lambda self: self.held or self.over)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held + self.over))
        names = [claim.agent_id for claim in held.claims]
        expected = self.job.renew(self.stage.now, held.token, names)
        assert self.stage.scripts.renew(JOB, held.token, names) is expected

    @rule(names=st.lists(agents, max_size=3, unique=True), wrong=rarely)
    def flush(self, names: list[str], wrong: bool) -> None:
        moves = self.seen if not wrong else self.job.moves + 1
        expected = self.job.flush(self.stage.now, moves, names)
        for _ in range(2):
            self._compare(self.stage.scripts.flush(JOB, moves, names), expected)

    @rule(wrong=rarely, end=st.none() | ends, repeated=st.booleans())
    def settle(self, wrong: bool, end: End | None, repeated: bool) -> None:
        moves = self.seen if not wrong else self.job.moves + 1
        expected = self.job.settle(moves, end)
        assert self.stage.scripts.settle(JOB, moves, end, list(KINDS)) is expected
        if repeated:
            again = self.stage.scripts.settle(JOB, moves, end, list(KINDS))
            assert again is (Word.ENDED if end and expected is Word.SETTLED else expected)

    @precondition(lambda self: self.job.moves > 6)
    @rule(end=ends)
    def finish(self, end: End) -> None:
        expected = self.job.finish(end)
        assert self.stage.scripts.finish(JOB, end, list(KINDS)) is expected
        assert self.stage.scripts.finish(JOB, end, list(KINDS)) is Word.ENDED
        self.over += self.held
        self.held = []

    @rule(ms=st.sampled_from([1, 60, 500, LEASE_MS + 1]))
    def time_goes_by(self, ms: int) -> None:
        """A lease that is over remains its holder's until somebody frees it: nothing else may happen by itself."""
        self.stage.now += ms

    @precondition(lambda self: self.again)
    @rule(data=st.data())
    def an_old_call_comes_once_more(self, data: st.DataObject) -> None:
        before = self.stage.everything()
        data.draw(st.sampled_from(self.again[-12:]))()
        assert _without_times(self.stage.everything()) == _without_times(before)
        for name, agent in self.job.agents.items():  # a claim that is asked for again has a fresh lease
            if agent.holder:
                agent.until_ms = self.stage.claims()[name]

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def the_rules_hold(self) -> None:
        self.found = self.stage.everything()
        self.the_store_is_as_the_model_says(self.found)
        self.an_agent_is_ready_exactly_while_it_can_act_and_nobody_has_claimed_it(self.found)
        self.a_job_ends_once(self.found)
        self.no_message_is_lost_or_doubled()

    def the_store_is_as_the_model_says(self, found: dict[str, Any]) -> None:
        """Mailboxes in order, who is claimed, who is ready and from when, and the job's own record."""
        for name, agent in self.job.agents.items():
            raw = found.get(f":agent:{name}", {})
            assert found.get(f":mail:{name}", []) == agent.mail
            assert raw.get(b"token", b"").decode() == agent.holder
            assert raw.get(b"state", b"") == agent.state
            assert (int(raw.get(b"processed", 0)), int(raw.get(b"attempts", 0))) == (agent.processed, agent.attempts)
        assert _times(found, ":claims") == {n: a.until_ms for n, a in self.job.agents.items() if a.holder}
        for pool in POOLS:
            assert _times(found, f":ready:{pool}") == self.job.ready(pool)
        record = found[""]
        assert record[b"status"].decode() == self.job.status
        assert record.get(b"result", b"") == self.job.result
        assert int(record[b"moves"]) == self.job.moves
        assert bool(record.get(b"idle_since")) is self.job.waits

    def an_agent_is_ready_exactly_while_it_can_act_and_nobody_has_claimed_it(self, found: dict[str, Any]) -> None:
        ready = {name for pool in POOLS for name in _times(found, f":ready:{pool}")}
        assert ready == {name for name, agent in self.job.agents.items() if agent.can_act and self.job.live}

    def a_job_ends_once(self, found: dict[str, Any]) -> None:
        ends = [fields[b"t"].decode() for _, fields in found[":events"] if fields[b"t"] in ENDS]
        assert ends == [f"job_{status}" for status in self.job.ends]
        assert len(ends) == (0 if self.job.live else 1)

    def no_message_is_lost_or_doubled(self) -> None:
        waiting = [message for agent in self.job.agents.values() for message in agent.mail]
        assert len(set(waiting)) == len(waiting)
        assert self.consumed.isdisjoint(waiting)
        assert self.consumed | set(waiting) == self.sent

    # -- how it is done ----------------------------------------------------------------------------------------------

    def _mail(self, to: list[str]) -> list[tuple[str, bytes]]:
        made = [(agent, b'{"n":%d}' % (len(self.sent) + n)) for n, agent in enumerate(to)]
        self.sent |= {message for _, message in made}
        return made

    def _claim(
        self, wanted: list[tuple[str, int]], run: tuple[str, ...], repeated: bool, opening: bool = False
    ) -> None:
        token = new_token()

        def call() -> Reply:
            return self.stage.scripts.claim(JOB, token, wanted, agents=run, opening=opening)

        reply = call()
        self._compare(reply, self.job.claim(self.stage.now, token, wanted, run, opening))
        if repeated:
            self._same_again(call, reply)
        self._remember(reply, call)

    def _commit(self, held: Held, steps: list[Step], wanted: list[tuple[str, int]], repeated: bool) -> Reply:
        token = new_token()

        def call() -> Reply:
            return self.stage.scripts.commit(JOB, held.token, steps, token, wanted, agents=list(KINDS))

        reply = call()
        self._compare(reply, self.job.commit(self.stage.now, held.token, steps, token, wanted))
        if repeated and not any(step.end for step in steps):
            self._same_again(call, reply)
        if reply.word is Word.COMMITTED:
            eaten = [m for s, c in zip(steps, held.claims, strict=True) for m in c.mail[: s.consumed]]
            assert self.consumed.isdisjoint(eaten)
            self.consumed |= set(eaten)
            if not self.job.live:
                self.over += self.held
                self.held = []
        else:
            self.sent -= {message for step in steps for _, message in step.outgoing}
            if reply.word is Word.MOVED:
                self.sent |= {message for step in steps if not step.alone for _, message in step.outgoing}
        self._remember(reply, call)
        return reply

    def _step(self, data: st.DataObject, claim: Claim) -> Step:
        """One run of an agent: it takes some of its mail, sends some, and perhaps fails, waits or ends the job."""
        consumed = data.draw(st.integers(0, len(claim.mail)))
        light = KINDS[claim.agent_id].pool == LIGHT
        return Step(
            claim.agent_id,
            consumed,
            claim.processed + consumed,
            state=b'{"s":%d}' % len(self.sent) if data.draw(st.booleans()) else b"",
            need=data.draw(st.sampled_from([None, 1, 2, 4])) if KINDS[claim.agent_id].need > 1 else None,
            attempts=claim.attempts + 1 if not consumed else 0,
            delay_ms=data.draw(st.sampled_from([None, None, 50, 500])) if not light else None,
            outgoing=self._mail(data.draw(targets)),
            events=[("seen", b"")] if data.draw(st.booleans()) else [],
            end=data.draw(ends) if data.draw(rarely) else None,
            alone=not claim.mail and data.draw(st.booleans()),
        )

    def _same_again(self, call: Callable[[], Reply], reply: Reply) -> None:
        """The reply was lost, and the client asks at once again: it gets the same answer, and nothing is different."""
        before = self.stage.everything()
        again = call()
        assert (again.word, again.moves, again.idle) == (reply.word, reply.moves, reply.idle)
        assert sorted((c.agent_id, c.mail, c.state) for c in again.claims) == sorted(
            (c.agent_id, c.mail, c.state) for c in reply.claims
        )
        known = {row.pool: row for row in again.waiting}
        for row in reply.waiting:
            assert (known[row.pool].due, known[row.pool].new >= row.new) == (row.due, True)
        assert _without_times(self.stage.everything()) == _without_times(before)

    def _remember(self, reply: Reply, call: Callable[[], object]) -> None:
        self.again.append(call)
        if reply.claims:
            self.held.append(Held(reply.token, reply.claims))
        if reply.idle:
            self.seen = reply.moves

    def _compare(self, reply: Reply, expected: Answer) -> None:
        assert (reply.word, reply.idle) == (expected.word, expected.idle)
        assert [(c.agent_id, c.mail) for c in reply.claims] == expected.claims
        assert {row.pool: (row.due, row.new) for row in reply.waiting} == expected.waiting
        for row in reply.waiting:  # a single one is named, so that it can be announced by its chain
            assert row.due > 1 or row.agent_id in self.job.ready(row.pool)
        for claim in reply.claims:
            agent = self.job.agents[claim.agent_id]
            assert (claim.state, claim.processed, claim.attempts) == (agent.state, agent.processed, agent.attempts)


def _times(found: dict[str, Any], suffix: str) -> dict[str, int]:
    return {name.decode(): int(at) for name, at in found.get(suffix, [])}


def _without_times(found: dict[str, Any]) -> dict[str, Any]:
    """All but what a claim that is asked for twice may renew: its lease, its time, and the event of the lease."""
    kept: dict[str, Any] = {}
    for name, value in found.items():
        if name == ":claims":
            value = sorted(agent for agent, _ in value)
        elif name == ":events":
            value = [fields for _, fields in value if fields[b"t"] != b"executor_lease_acquired"]
        elif isinstance(value, dict):
            value = {field: text for field, text in value.items() if field != b"claimed_at"}
        kept[name] = value
    return kept


def test_the_scripts_do_what_the_model_says(redis_url: str) -> None:
    chosen = settings() if settings.get_current_profile_name() == "long" else SHORT
    run_state_machine_as_test(type("On", (Machine,), {"url": redis_url}), settings=chosen)
