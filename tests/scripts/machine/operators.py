"""Rules of the state machine: controls of operators, some of them repeated."""

from __future__ import annotations

from hypothesis import strategies as st

from mirrorneuron.job import JobStatus
from mirrorneuron.store.protocol import ControlReply, JobEnd, ReplyCode
from tests.scripts.machine import controls
from tests.scripts.machine.acts import act
from tests.scripts.machine.controls import Controlled
from tests.scripts.machine.stage import JOB
from tests.scripts.machine.state_machine import KINDS, Call, agents, alive, ends, rarely
from tests.scripts.machine.workers import Workers

BEHIND = {  # an agent and all agents downstream of it, as in a plan
    "a": ("a", "b", "c", "join"),
    "b": ("b", "c", "join"),
    "c": ("c", "join"),
    "join": ("join",),
    "x": ("x", "y", "batch", "join"),
    "y": ("y", "batch"),
    "batch": ("batch",),
}


class Operators(Workers):
    @act(1, to=st.sampled_from([JobStatus.PAUSED, JobStatus.RUNNING]), repeated=st.booleans())
    def pause_or_resume(self, to: JobStatus, repeated: bool) -> None:
        call = Call(
            lambda: self.stage.scripts.pause_resume(JOB.job_id, to, b"{}"),
            lambda: controls.move(self.job, self.now, to),
        )
        self.ask(call, repeated)

    @act(4, lambda self: self.job.status is JobStatus.PAUSED, repeated=st.booleans())
    def resume(self, repeated: bool) -> None:
        self.pause_or_resume(JobStatus.RUNNING, repeated)

    @act(3, data=st.data(), agent=agents, used=rarely, repeated=st.booleans())
    def send(self, data: st.DataObject, agent: str, used: bool, repeated: bool) -> None:
        """Send a message from outside. With an id that the agent knows it is a duplicate."""
        message = self.ledger.new()
        name = f"id-{message.decode()}"
        if used and self.job.delivered:
            name = data.draw(st.sampled_from(sorted(self.job.delivered))).partition(" ")[2]
        call = Call(
            lambda: self.stage.scripts.deliver(JOB.job_id, agent, name, message),
            lambda: controls.deliver(self.job, self.now, agent, name, message),
        )
        if self.ask(call, repeated).word is ReplyCode.DELIVERED:
            self.ledger.sent([message])
            self.again.append(call)

    @act(1, lambda self: self.job.live and self.job.revision > 6, end=ends, repeated=st.booleans())
    def cancel(self, end: JobEnd, repeated: bool) -> None:
        self.finish(self.ref, end, repeated)

    @act(4, lambda self: not self.job.live, start=st.sampled_from(["", *BEHIND]), repeated=st.booleans())
    def retry(self, start: str, repeated: bool) -> None:
        self._retry(start, repeated)

    @act(1, alive, start=st.sampled_from(["", "a"]))
    def retry_what_has_not_ended(self, start: str) -> None:
        self._retry(start, repeated=False)

    def _retry(self, start: str, repeated: bool) -> None:
        clear = [(name, KINDS[name].threshold if KINDS[name].threshold > 1 else "") for name in BEHIND.get(start, ())]
        cleared = [message for name, _ in clear for message in self.stage.mail(name)]
        runs: list[int] = []

        ref = self.ref

        def script() -> ControlReply:
            moved, run = self.stage.scripts.retry(ref, b"{}", list(KINDS), start, clear)
            runs.append(run)
            return moved

        def rule() -> Controlled:
            return controls.retry(self.job, self.now, ref.run, start, BEHIND.get(start, ()))

        call = Call(script, rule)
        moved = self.ask(call, repeated)
        if self.job.run > ref.run:  # otherwise the repeated call may be the one that changes it
            self.again.append(call)
        assert set(runs) == {self.job.run if moved.word is ReplyCode.SETTLED else 0}
        if self.job.run > self.ledger.run:
            self.ledger.next_run(cleared, self.job.agents[start].mail if start else ())
