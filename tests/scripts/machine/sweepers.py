"""Rules of the state machine: time passes, and sweepers sweep."""

from __future__ import annotations

from hypothesis import strategies as st

from mirrorneuron.job import JobStatus
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import ReplyCode, SweepReply
from tests.scripts.machine.acts import act
from tests.scripts.machine.operators import Operators
from tests.scripts.machine.stage import JOB, LEASE_MS, failed
from tests.scripts.machine.state_machine import FIRST_WAIT_MS, KINDS, LONGEST_WAIT_MS, alive, running

FATAL = (ReplyCode.LATE, ReplyCode.OVERDUE, ReplyCode.POISONED)


class Sweepers(Operators):
    @act(2, ms=st.sampled_from([1, 500, 2_000, LEASE_MS + 1, 20_000]))
    def time_goes_by(self, ms: int) -> None:
        """Let time pass. An expired claim stays valid until a sweep frees it; time alone changes nothing else."""
        self.stage.now += ms

    @act(1, after_gap=st.booleans(), acts=st.booleans(), repeated=st.booleans())
    def sweep(self, after_gap: bool, acts: bool, repeated: bool) -> None:
        """Sweep. The sweeper may die before it acts on the reply; the next sweep gets the same reply."""
        swept = self._sweep(after_gap)
        if acts:
            self._act(swept, repeated)

    @act(2, alive, ms=st.sampled_from([LEASE_MS, FIRST_WAIT_MS, 2 * FIRST_WAIT_MS, 30_000]), another=st.booleans())
    def all_workers_are_silent_until_the_next_sweep(self, ms: int, another: bool) -> None:
        self.stage.now += ms
        swept = self._sweep(after_gap=False)
        if another:
            assert not self._sweep(after_gap=False).waiting
        self._act(swept, repeated=False)

    @act(2, lambda self: self.job.status is JobStatus.PENDING)
    def the_job_is_not_opened(self) -> None:
        self.stage.now += FIRST_WAIT_MS
        self._sweep(after_gap=False)

    @act(1, running, data=st.data(), times=st.integers(1, 3))
    def a_message_kills_its_workers(self, data: st.DataObject, times: int) -> None:
        run = self.ready_run(data)
        for _ in range(times):
            self.claim(self.ref, [(KINDS[run[0]].pool, 1)], run)
            self.stage.now += LEASE_MS
            self._act(self._sweep(after_gap=False), repeated=False)

    @act(1, alive, gaps=st.tuples(st.booleans(), st.booleans()), repeated=st.booleans())
    def two_sweepers_sweep_at_once(self, gaps: tuple[bool, bool], repeated: bool) -> None:
        """Each sweep finds what the other one left; nothing is announced twice, and the job ends once."""
        first, second = self._sweep(gaps[0]), self._sweep(gaps[1])
        assert not (first.waiting and second.waiting)
        assert (first.word, second.word) != (ReplyCode.OPEN, ReplyCode.OPEN)
        self._act(first, repeated)
        self._act(second, repeated)

    def _act(self, swept: SweepReply, repeated: bool) -> None:
        if swept.job is None:
            return
        if swept.word is ReplyCode.OPEN:
            self.claim(swept.job, [(LIGHT, 1)], opening=True, repeated=repeated)
        elif swept.word is ReplyCode.IDLE:
            self.settle(swept.job, swept.revision, None, repeated)
        elif swept.word in FATAL:
            self.finish(swept.job, failed(), repeated)

    def _sweep(self, after_gap: bool) -> SweepReply:
        swept = self.stage.scripts.sweep(
            JOB.job_id, after_gap=after_gap, first_wait_ms=FIRST_WAIT_MS, longest_wait_ms=LONGEST_WAIT_MS
        )
        expected = self.recovery.sweep(self.now, after_gap)
        assert (swept.word, swept.agent_id, swept.losses) == (expected.word, expected.agent, expected.losses)
        assert (swept.job, swept.revision) == (self.ref, self.job.revision)
        self.compare_waiting(swept.waiting, expected.waiting)
        return swept
