"""Rules of the state machine: workers, including slow ones and ones whose claims were freed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from mirrorneuron.job import JobStatus
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import Claim, JobEnd, JobRef, Reply, ReplyCode, Step, new_token, untouched
from mirrorneuron.store.scripts import Wanted
from tests.scripts.machine.acts import act
from tests.scripts.machine.model import Answer
from tests.scripts.machine.stage import JOB, failed
from tests.scripts.machine.state_machine import (
    KINDS,
    RUNS,
    Base,
    Call,
    ClaimedAgent,
    alive,
    ends,
    pools_wanted,
    rarely,
    running,
    targets,
)

EATEN = "eaten"  # the event that a run records for each message that it has consumed


class Workers(Base):
    @act(2, lambda self: self.job.status is JobStatus.PENDING, wanted=pools_wanted, repeated=st.booleans())
    def open(self, wanted: Wanted, repeated: bool) -> None:
        self.claim(self.ref, wanted, opening=True, repeated=repeated)

    @act(2, alive, wanted=pools_wanted, opening=rarely, repeated=st.booleans())
    def claim_any(self, wanted: Wanted, opening: bool, repeated: bool) -> None:
        self.claim(self.ref, wanted, opening=opening, repeated=repeated)

    @act(2, alive, data=st.data(), any_run=rarely, repeated=st.booleans())
    def claim_one(self, data: st.DataObject, any_run: bool, repeated: bool) -> None:
        """Claim one agent, and the agents after it while they are free, to send them inline mail."""
        run = data.draw(st.sampled_from(RUNS)) if any_run else self.ready_run(data)
        self.claim(self.ref, [(KINDS[run[0]].pool, 1)], run, repeated=repeated)

    @act(4, lambda self: self.held, data=st.data(), wanted=pools_wanted, go_on=st.booleans(), repeated=st.booleans())
    def commit(self, data: st.DataObject, wanted: Wanted, go_on: bool, repeated: bool) -> None:
        held = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        self._answer(data, held, wanted if go_on else (), repeated)

    @act(2, lambda self: self._shared(), data=st.data(), repeated=st.booleans())
    def commit_early(self, data: st.DataObject, repeated: bool) -> None:
        """Commit the runs of a claim that are over while another goes on, and give the agents after it back."""
        held = data.draw(st.sampled_from(self._shared()))
        at = data.draw(st.integers(0, len(held.claims) - 1))
        over, claim = [replace(self._step(data, claim), end=None) for claim in held.claims[:at]], held.claims[at]
        steps = over + [untouched(later) for later in held.claims[at + 1 :]]
        if over and not claim.mail and data.draw(st.booleans()):
            over[-1].outgoing.append((claim.agent_id, self.ledger.new()))
            steps.append(Step(claim.agent_id, goes_on=True))
            sent = tuple(message for step in steps for agent, message in step.outgoing if agent == claim.agent_id)
            claim = replace(claim, mail=sent)
        reply = self.ask(self._commit(held, steps, new_token(), (), early=True), repeated)
        if reply.word is ReplyCode.COMMITTED:
            self.held[self.held.index(held)] = ClaimedAgent(held.job, held.token, (claim,))

    @act(4, running, data=st.data(), wanted=pools_wanted, rounds=st.integers(1, 4), repeated=st.booleans())
    def visit(self, data: st.DataObject, wanted: Wanted, rounds: int, repeated: bool) -> None:
        """Claim ready agents and continue with the agents that the commits make ready, as in one visit of a worker."""
        reply = self.claim(self.ref, wanted, repeated=repeated)
        for left in reversed(range(rounds)):
            if reply.claims:
                reply = self._answer(data, self.held[-1], wanted if left else (), repeated)

    @act(
        1,
        lambda self: self.over or self.held,
        data=st.data(),
        wanted=pools_wanted,
        way=st.sampled_from(["over", "forged", "mixed", "run"]),
    )
    def commit_what_is_not_held(self, data: st.DataObject, wanted: Wanted, way: str) -> None:
        """Commit with a stale or unknown token, with one agent too many, or for another run: refused as a whole."""
        source = data.draw(st.sampled_from(self.over if way == "over" and self.over else self.held or self.over))
        steps = [Step(c.agent_id, len(c.mail), 99, b"[0]", outgoing=[("a", b"stray")]) for c in source.claims]
        if way == "forged":
            source = replace(source, token=new_token())
        elif way == "mixed":
            others = sorted(set(KINDS) - {c.agent_id for c in source.claims})
            steps.append(Step(data.draw(st.sampled_from(others)), 1, 99))
        elif way == "run":
            runs = [run for run in range(self.job.run + 2) if run != source.job.run]
            source = replace(source, job=JOB._replace(run=data.draw(st.sampled_from(runs))))
        elif source not in self.over:
            return
        before = self.job.revision
        reply = self.ask(self._commit(source, steps, new_token(), wanted))
        assert (self.job.revision, reply.claims) == (before, ())

    @act(1, lambda self: self.held or self.over, data=st.data(), alone=st.booleans(), repeated=st.booleans())
    def renew(self, data: st.DataObject, alone: bool, repeated: bool) -> None:
        held = data.draw(st.sampled_from(self.held + self.over[-6:]))
        names, run = [claim.agent_id for claim in held.claims], held.job.run
        call = Call(
            lambda: self.stage.scripts.renew(held.job, held.token, names, alone=alone),
            lambda: self.job.renew(self.now, run, held.token, names, alone),
        )
        self.ask(call, repeated)

    @act(
        1,
        alive,
        names=st.sampled_from([["batch"], ["batch", "join"], ["join", "a"], []]),
        off=st.sampled_from([0, 0, 0, -1, 1]),
    )
    def flush(self, names: list[str], off: int) -> None:
        self.ask(self._flush(self.ref, self.job.revision + off, names), repeated=True)

    @act(1, alive, end=st.none() | ends, off=st.sampled_from([0, 0, 0, -1, 1]), repeated=st.booleans())
    def settle_what_is_idle(self, end: JobEnd | None, off: int, repeated: bool) -> None:
        self.settle(self.ref, self.job.revision + off, end, repeated)

    @act(1, lambda self: self.job.run > 1, data=st.data(), end=ends, wanted=pools_wanted)
    def a_task_of_an_earlier_run_comes_late(self, data: st.DataObject, end: JobEnd, wanted: Wanted) -> None:
        self._come_late(JOB._replace(run=data.draw(st.integers(1, self.job.run - 1))), end, wanted)

    @act(1, lambda self: not self.job.live, end=ends, wanted=pools_wanted)
    def a_task_comes_after_the_end(self, end: JobEnd, wanted: Wanted) -> None:
        self._come_late(self.ref, end, wanted)

    @act(1, lambda self: self.again, data=st.data())
    def an_old_call_comes_once_more(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.again[-12:]))
        self.ask(call)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _come_late(self, job: JobRef, end: JobEnd, wanted: Wanted) -> None:
        for opening in (False, True):
            self.claim(job, wanted, opening=opening)
        self.ask(self._flush(job, self.job.revision, ["batch"]))
        self.settle(job, self.job.revision, end)
        self.finish(job, end)

    def _answer(self, data: st.DataObject, held: ClaimedAgent, wanted: Wanted, repeated: bool) -> Reply:
        self.held.remove(held)
        self.over.append(held)
        steps = [self._step(data, claim) for claim in held.claims]
        next_token, idle_end = new_token(), data.draw(st.none() | ends)
        reply: Reply = self.ask(self._commit(held, steps, next_token, wanted, idle_end=idle_end), repeated)
        if reply.word is ReplyCode.MOVED:  # as the worker does: the mail that arrived first is handled first
            steps = _first_alone(held, steps)
            reply = self.ask(self._commit(held, steps, next_token, wanted, idle_end=idle_end), repeated)
            assert reply.word in (ReplyCode.COMMITTED, ReplyCode.FULL)
        if reply.word is ReplyCode.FULL:  # as the worker does: the job fails
            steps = [untouched(claim) for claim in held.claims]
            reply = self.ask(
                self._commit(held, [replace(steps[0], end=failed(), not_run=False), *steps[1:]], next_token, wanted)
            )
            assert reply.word is ReplyCode.COMMITTED
        self.let_go()
        return reply

    def _shared(self) -> list[ClaimedAgent]:
        """The claims of several agents that no early commit has parted."""
        return [held for held in self.held if len(held.claims) > 1]

    def _commit(
        self,
        held: ClaimedAgent,
        steps: list[Step],
        next_token: str,
        wanted: Wanted,
        early: bool = False,
        idle_end: JobEnd | None = None,
    ) -> Call:
        scripts, everyone = self.stage.scripts, list(KINDS)
        call = Call(
            lambda: scripts.commit(
                held.job, held.token, steps, next_token, wanted, agents=everyone, early=early, idle_end=idle_end
            ),
            lambda: self._rule_of_commit(held, steps, next_token, wanted, early, idle_end),
        )
        self.again.append(call)
        return call

    def _rule_of_commit(
        self,
        held: ClaimedAgent,
        steps: list[Step],
        next_token: str,
        wanted: Wanted,
        early: bool,
        idle_end: JobEnd | None,
    ) -> Answer:
        part = held.token, early
        landed = part in self.job.landed
        answer = self.job.commit(self.now, held.job.run, held.token, steps, next_token, wanted, early, idle_end)
        if not landed and part in self.job.landed:
            self.ledger.sent(step.last for step in steps if step.inline_only)
            self.ledger.consumed([payload for step in steps for kind, payload in step.events if kind == EATEN])
            self.ledger.sent(message for step in steps for _, message in step.outgoing)
        return answer

    def _flush(self, job: JobRef, revision: int, names: list[str]) -> Call:
        return Call(
            lambda: self.stage.scripts.flush(job, revision, names),
            lambda: self.job.flush(self.now, job.run, revision, names),
        )

    def _step(self, data: st.DataObject, claim: Claim) -> Step:
        """One run of an agent: it consumes some mail, sends messages, and may fail, wait for a retry or end the job."""
        consumed = data.draw(st.sampled_from([len(claim.mail)] * 4 + [0, 1, 2]).map(lambda n: min(n, len(claim.mail))))
        eaten = list(claim.mail[:consumed])
        inline_only = not claim.mail and data.draw(st.booleans())
        if inline_only:
            eaten.append(self.ledger.new())  # inline mail, which was never in the mailbox
        kind = KINDS[claim.agent_id]
        if not consumed and not inline_only and data.draw(rarely):
            return untouched(claim)
        troubled = bool(claim.mail) and not consumed
        return Step(
            claim.agent_id,
            consumed,
            claim.processed + len(eaten),
            state=b'{"s":%d}' % self.job.revision if data.draw(st.booleans()) else b"",
            last=eaten[-1] if eaten else b"",
            output=eaten[-1] if data.draw(st.booleans()) and eaten else b"",
            threshold=data.draw(st.sampled_from([None, 1, 2, 4])) if kind.threshold > 1 else None,
            attempts=claim.attempts + 1 if troubled else 0,
            delay_ms=data.draw(st.sampled_from([None, 500, 10_000])) if troubled and kind.pool != LIGHT else None,
            error="e" if troubled else "",
            outgoing=[(agent, self.ledger.new()) for agent in data.draw(st.just([]) | targets)],
            events=[(EATEN, message) for message in eaten],
            end=data.draw(ends) if data.draw(rarely) else None,
            consumed_bytes=sum(map(len, claim.mail[:consumed])),
            inline_only=inline_only,
        )


def _first_alone(held: ClaimedAgent, steps: list[Step]) -> list[Step]:
    """The steps without inline mail; the other agents are released, and their inline mail is sent."""
    inline_mail = [(step.agent_id, step.last) for step in steps if step.inline_only]
    kept = [untouched(claim) if step.inline_only else step for claim, step in zip(held.claims, steps, strict=True)]
    return [replace(kept[0], outgoing=kept[0].outgoing + inline_mail), *kept[1:]]
