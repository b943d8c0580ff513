"""The invariants after every step of the state machine: the store agrees with the model and keeps its guarantees."""

from __future__ import annotations

from typing import Any

from hypothesis.stateful import invariant

from mirrorneuron.job import JobStatus
from mirrorneuron.store.protocol import ReplyCode, Step, new_token
from tests.scripts.machine.stage import ANY_LIGHT, JOB, KEEP_S, failed
from tests.scripts.machine.state_machine import KINDS, POOLS
from tests.scripts.machine.sweepers import Sweepers
from tests.scripts.machine.workers import EATEN

Found = dict[str, Any]
ENDS = ("job_completed", "job_failed", "job_cancelled")
MARK_S = 60  # for which a repeated claim or commit is recognized


class Invariants(Sweepers):
    def __init__(self) -> None:
        super().__init__()
        self.newest = "-"  # event of the store
        self.read = 0  # events of the model
        self.effects: list[bytes] = []  # effects that agents have recorded in the present run of the job
        self.ends = 0  # terminal events of the present run
        self.looked_at = 0  # the run in which the keys' times to live were checked last

    @invariant()
    def the_rules_hold(self) -> None:
        found = self.stage.everything(self.newest)
        self.every_agent_is_as_the_model_says(found)
        self.the_record_is_as_the_model_says(found)
        self.each_change_is_one_event(found)
        self.an_agent_is_ready_exactly_while_it_can_act_and_is_not_claimed(found)
        self.ledger.check([found.get(f":mail:{name}", []) for name in KINDS], self.effects)
        assert self.ends == (0 if self.job.live else 1)
        if not self.job.live or self.job.run != self.looked_at:
            self.looked_at = self.job.run
            self.all_keys_expire_with_the_job()

    def every_agent_is_as_the_model_says(self, found: Found) -> None:
        """Mailboxes in order, the results of runs, the claims, and which agents are ready from when."""
        for name, agent in self.job.agents.items():
            raw = found.get(f":agent:{name}", {})
            assert found.get(f":mail:{name}", []) == agent.mail
            assert raw.get(b"token", b"").decode() == agent.holder
            for field in ("state", "last", "output", "error"):
                assert raw.get(field.encode(), b"") == getattr(agent, field)
            for field in ("processed", "attempts", "losses"):
                assert int(raw.get(field.encode()) or 0) == getattr(agent, field)
        assert _times(found, ":claims") == {agent.name: agent.until_ms for agent in self.job.held()}
        for pool in POOLS:
            assert _times(found, f":ready:{pool}") == self.job.ready(pool)

    def the_record_is_as_the_model_says(self, found: Found) -> None:
        record, job = found[""], self.job
        assert (record[b"status"].decode(), record.get(b"result", b"")) == (job.status, job.result)
        assert (int(record[b"run"]), int(record[b"revision"])) == (job.run, job.revision)
        assert _time(record, b"idle_since") == job.idle_since_ms
        assert _time(record, b"finished_at") == job.finished_ms
        assert int(record.get(b"mail_bytes", 0)) == job.mail_bytes
        assert _times(found, ":delivered").keys() == job.delivered

    def each_change_is_one_event(self, found: Found) -> None:
        news = [(entry.decode(), fields) for entry, fields in found.get(":events", [])]
        kinds = [(fields[b"t"].decode(), fields[b"a"].decode()) for _, fields in news]
        assert sorted(kinds) == sorted(self.job.log[self.read :])
        self.read = len(self.job.log)
        for (entry, fields), (kind, _) in zip(news, kinds, strict=True):
            self.newest = f"({entry}"
            if kind == "job_recovery_started":
                self.effects, self.ends = [], 0
            elif kind == EATEN:
                self.effects.append(fields[b"p"])
            self.ends += kind in ENDS

    def an_agent_is_ready_exactly_while_it_can_act_and_is_not_claimed(self, found: Found) -> None:
        ready = {name for pool in POOLS for name in _times(found, f":ready:{pool}")}
        assert ready == {name for name, agent in self.job.agents.items() if agent.can_act and self.job.live}
        assert self.job.live or not found.get(":claims")

    def all_keys_expire_with_the_job(self) -> None:
        for suffix, seconds in self.stage.lifetimes().items():
            if suffix.startswith(":op:"):
                assert seconds <= MARK_S
                assert seconds != -1
            elif self.job.live:
                assert (suffix, seconds) == (suffix, -1)
            else:
                assert (suffix, 0 < seconds <= KEEP_S) == (suffix, True)

    def teardown(self) -> None:
        self._remove()
        self.nothing_lives_without_the_job()
        self._remove()
        self.stage.redis.close()

    def nothing_lives_without_the_job(self) -> None:
        """The keys of a deleted job are gone. A later call gets MISSING and creates no key."""
        scripts, token = self.stage.scripts, new_token()
        for job in {self.ref, JOB}:
            assert scripts.claim(job, token, ANY_LIGHT, opening=True).word is ReplyCode.MISSING
            assert scripts.commit(job, token, [Step("a", outgoing=[("b", b"1")])], token).word is ReplyCode.MISSING
            assert scripts.renew(job, token, ["a"]) is ReplyCode.MISSING
            assert scripts.flush(job, 0, ["batch"]).word is ReplyCode.MISSING
            assert scripts.settle(job, 0, None) is scripts.finish(job, failed(), list(KINDS)) is ReplyCode.MISSING
        assert scripts.pause_resume(JOB.job_id, JobStatus.PAUSED, b"{}").word is ReplyCode.MISSING
        assert scripts.deliver(JOB.job_id, "a", "id", b"1").word is ReplyCode.MISSING
        assert scripts.retry(JOB, b"{}", list(KINDS), "a", [("a", "")])[0].word is ReplyCode.MISSING
        assert self.stage.sweep(after_gap=True).word is ReplyCode.MISSING
        assert self.stage.lifetimes() == {}

    def _remove(self) -> None:
        if names := list(self.stage.redis.scan_iter(f"{self.stage.keys.ns}:*", count=10_000)):
            self.stage.redis.delete(*names)


def _times(found: Found, suffix: str) -> dict[str, int]:
    return {name.decode(): int(at) for name, at in found.get(suffix, [])}


def _time(record: dict[bytes, bytes], field: bytes) -> int | None:
    return int(record[field]) if record.get(field) else None
