"""Rules of the state machine: time passes, and sweepers sweep."""

from __future__ import annotations

from hypothesis import strategies as st

from mirrorneuron.job import JobStatus
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.protocol import ReplyCode, SweepReply
from tests.scripts.machine.acts import act
from tests.scripts.machine.operators import Operators
from tests.scripts.machine.stage import LEASE_MS, failed
from tests.scripts.machine.state_machine import KINDS, alive, rarely, running
from tests.scripts.machine.watch import Watch
from workers.recovery.reminders import Reminders

FATAL = (ReplyCode.LATE, ReplyCode.OVERDUE, ReplyCode.POISONED)


class Sweepers(Operators):
    @act(2, ms=st.sampled_from([1, 500, 2_000, LEASE_MS + 1, 20_000]))
    def time_goes_by(self, ms: int) -> None:
        """Let time pass. An expired claim stays valid until a sweep frees it; time alone changes nothing else."""
        self.stage.now += ms

    @act(1, after_gap=st.booleans(), set_back=rarely, acts=st.booleans(), repeated=st.booleans())
    def sweep(self, after_gap: bool, set_back: bool, acts: bool, repeated: bool) -> None:
        """Sweep. The sweeper may die before it acts on the reply; the next sweep gets the same reply."""
        swept = self._sweep(after_gap, set_back)
        if acts:
            self._act(swept, repeated)

    @act(2, alive, ms=st.sampled_from([LEASE_MS, 2 * LEASE_MS, 30_000]), another=st.booleans())
    def all_workers_are_silent_until_the_next_sweep(self, ms: int, another: bool) -> None:
        self.stage.now += ms
        swept = self._sweep()
        if another:
            assert not new(self._sweep())
        self._act(swept, repeated=False)

    @act(1, alive, gaps=st.integers(3, 5))
    def every_sweep_comes_after_a_gap(self, gaps: int) -> None:
        """The claims of dead workers are freed all the same, one lease later, or two after the clock was set back."""
        held = self.job.held()
        for _ in range(gaps):
            self.stage.now += LEASE_MS
            swept = self._sweep(after_gap=True)
        lost = [agent.name for agent in held if agent.holder not in ("", "poisoned")]
        assert not lost or not self.job.live or swept.word in FATAL

    @act(1, alive, ms=st.sampled_from([2_000, 20_000, 600_000]))
    def the_clock_of_the_server_is_set_back(self, ms: int) -> None:
        """Nothing that is due waits longer than if it had begun after the step."""
        self.stage.now -= ms
        swept = self._sweep(set_back=True)
        if swept.word in FATAL:
            return
        assert all(agent.until_ms <= self.now + 2 * LEASE_MS for agent in self.job.held())
        for agent in self.job.agents.values():
            assert agent.ready_ms is None or agent.ready_ms <= self.now + (agent.delay_ms if agent.due_ms else 0)

    @act(3, alive, data=st.data(), seconds=st.sampled_from([8, 15, 60]), handover=rarely)
    def a_sweeper_looks_only_when_the_job_is_due(self, data: st.DataObject, seconds: int, handover: bool) -> None:
        """Liveness: whatever is ready, lost or over is found within its bound, however much else happens."""
        watch = Watch(self.job, self.now)
        for _ in range(seconds):
            self.stage.now += 1_000
            asked = self._disturb(data)
            if not self.job.live:
                return
            if self.now >= watch.due_ms:
                swept = self._sweep()
                if swept.word in FATAL:
                    return
                self._act(swept, repeated=False)
                watch.looked(swept, self.now)
            if asked:  # read before the look, and made due after it
                watch.due_ms = min(watch.due_ms, self.now)
            assert not self.recovery.time_is_over(self.now)
            assert all(agent.until_ms + LEASE_MS > self.now for agent in self.job.held()), "two leases"
            assert not watch.neglected(self.now)
            if handover and data.draw(rarely):
                watch.reminders = Reminders()  # another worker sweeps

    def _disturb(self, data: st.DataObject) -> bool:
        """Let something happen within a second. Returns True if the sweeper is asked to look."""
        match data.draw(
            st.sampled_from(["", "", "", "message", "claim", "commit", "renew", "settle", "pause", "resume"])
        ):
            case "message":
                self.send(data, data.draw(st.sampled_from(sorted(KINDS))), used=False, repeated=False)
                return True
            case "resume":
                self.pause_or_resume(JobStatus.RUNNING, repeated=False)
                return True
            case "pause":
                self.pause_or_resume(JobStatus.PAUSED, repeated=False)
            case "claim":
                self.claim_one(data, any_run=False, repeated=False)
            case "commit" if self.held:
                self.commit(data, (), go_on=False, repeated=False)
            case "renew" if self.held:
                self.renew(data, alone=False, repeated=False)
            case "settle":
                self.settle(self.ref, self.job.revision, None)
        return False

    @act(2, lambda self: self.job.status is JobStatus.PENDING)
    def the_job_is_not_opened(self) -> None:
        self.stage.now += LEASE_MS
        assert self._sweep().word in (ReplyCode.OPEN, *FATAL)

    @act(1, running, data=st.data(), times=st.integers(1, 3))
    def a_message_kills_its_workers(self, data: st.DataObject, times: int) -> None:
        run = self.ready_run(data)
        for _ in range(times):
            self.claim(self.ref, [(KINDS[run[0]].pool, 1)], run)
            self.stage.now += LEASE_MS
            self._act(self._sweep(), repeated=False)

    @act(1, alive, gaps=st.tuples(st.booleans(), st.booleans()), repeated=st.booleans())
    def two_sweepers_sweep_at_once(self, gaps: tuple[bool, bool], repeated: bool) -> None:
        """Each sweep finds what the other one left; nothing is new twice, and the job ends once."""
        first, second = self._sweep(gaps[0]), self._sweep(gaps[1])
        assert not (new(first) and new(second))
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

    def _sweep(self, after_gap: bool = False, set_back: bool = False) -> SweepReply:
        swept = self.stage.sweep(after_gap=after_gap, set_back=set_back)
        expected = self.recovery.sweep(self.now, after_gap, set_back)
        assert (swept.word, swept.agent_id, swept.losses) == (expected.word, expected.agent, expected.losses)
        assert (swept.job, swept.revision, swept.since_ms) == (self.ref, self.job.revision, self.job.aged_from_ms)
        self.compare_waiting(swept.waiting, expected.waiting)
        assert {row.pool: (row.oldest, row.ready_ms) for row in swept.waiting} == expected.oldest
        assert swept.look_ms == expected.look
        return swept


def new(swept: SweepReply) -> bool:
    return any(row.new for row in swept.waiting)
