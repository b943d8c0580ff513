"""Every Redis key.

All keys of a job begin with its job key, `ns:job:{job_id}`. The braces are a hash tag: one slot holds a job whole, so
one script may touch all of it. The scripts get the job key and add the suffixes below; `lua/` is their only other
home, but for the search for a job's agents in `store`. Indexes, bundles and nodes live in other slots and are written
beside a script, never within one.

    suffix         type    what                                                    written by
    (none)         HASH    status run moves pools digest static result, times,     create, claim, commit, settle, log,
                           time-outs, announced_*, log_bytes                       finish, move, deliver, retry, sweep
    :mail:<agent>  LIST    message JSON, oldest first                              create, commit, deliver, retry
    :agent:<agent> HASH    token node claimed_at state last output processed       create, claim, commit, flush,
                           attempts need take pool due error losses cut            settle, finish, retry, sweep
    :claims        ZSET    agent by end of lease (ms)                              claim, commit, renew, sweep
    :ready:<pool>  ZSET    agent by the time (ms) from which it may be claimed     all that change mail or claims
    :events        STREAM  t(ype) a(gent) p(ayload JSON)                           all
    :delivered     ZSET    agent and id of messages from outside, by time (ms)     deliver
    :dead          STREAM  dead letters: i(d) a(gent) r(eason) m(essage JSON)      commit, deliver
    :logs          STREAM  output of running commands: a(gent) s(tream) t(ext)     log
    :op:<token>    STRING  mark of a claim, or with :done of a commit; 60 s        claim, commit

They live as long as the job, and after its end for the time of retention.
"""

from __future__ import annotations

from dataclasses import dataclass


def result_channel(job_id: str) -> str:
    """The channel on which Celery's own result consumer listens for the end of a task of this id."""
    return f"celery-task-meta-{job_id}"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace."""

    ns: str

    @property
    def jobs(self) -> str:
        """ZSET of all kept jobs by submission time (ms)."""
        return f"{self.ns}:jobs"

    @property
    def live(self) -> str:
        """SET of the jobs that have not ended."""
        return f"{self.ns}:jobs:live"

    @property
    def ended(self) -> str:
        """ZSET of ended jobs by the time (ms) at which their retention is over."""
        return f"{self.ns}:jobs:ended"

    @property
    def ends(self) -> str:
        """CHANNEL: the key of a job that ended while something of it was running."""
        return f"{self.ns}:ends"

    @property
    def sweeper(self) -> str:
        """STRING: the worker that sweeps; expires some sweeps after its last."""
        return f"{self.ns}:lease:sweeper"

    @property
    def swept(self) -> str:
        """STRING: when the last sweep was (ms)."""
        return f"{self.ns}:swept_at"

    @property
    def nodes(self) -> str:
        """ZSET of worker names by last heartbeat (ms)."""
        return f"{self.ns}:nodes"

    def node(self, name: str) -> str:
        """STRING: JSON of one worker's registration; expires some heartbeats after the last."""
        return f"{self.ns}:node:{name}"

    def manifest(self, digest: str) -> str:
        """STRING: JSON `{manifest, payloads}` of a bundle; expires when no kept job can need it."""
        return f"{self.ns}:manifest:{digest}"

    def bundle(self, payloads_digest: str) -> str:
        """HASH: number -> chunk of a payloads archive; expires like the manifest."""
        return f"{self.ns}:bundle:{payloads_digest}"

    def job(self, job_id: str) -> str:
        """HASH: the job's record, and the stem of all its other keys."""
        return f"{self.ns}:job:{{{job_id}}}"

    def mail(self, job_id: str, agent: str) -> str:
        return f"{self.job(job_id)}:mail:{agent}"

    def agent(self, job_id: str, agent: str) -> str:
        return f"{self.job(job_id)}:agent:{agent}"

    def claims(self, job_id: str) -> str:
        return f"{self.job(job_id)}:claims"

    def ready(self, job_id: str, pool: str) -> str:
        return f"{self.job(job_id)}:ready:{pool}"

    def events(self, job_id: str) -> str:
        return f"{self.job(job_id)}:events"

    def dead(self, job_id: str) -> str:
        return f"{self.job(job_id)}:dead"

    def logs(self, job_id: str) -> str:
        return f"{self.job(job_id)}:logs"
