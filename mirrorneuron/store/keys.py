"""Every Redis key.

All keys of a job begin with its job key, `ns:job:{job_id}`. The braces are a hash tag: all keys of a job are in one
slot, so one script can access them all. The scripts get the job key and append the suffixes below. Outside this module
the suffixes occur only in `lua/`. Indexes, bundles and nodes are in other slots, and no
script of a job accesses them, except that `create` announces its job if the broker is this server: it looks whether the
bundle exists, and pushes onto the queue.

    suffix         type    what                                                    written by
    (none)         HASH    status run revision pools digest inputs static result,  create, claim, commit, settle, log,
                           times, time-outs, log_bytes, mail_bytes, event_bytes,   finish, pause_resume, deliver, retry,
                           dead_bytes, agents (JSON list of names)                 sweep
    :mail:<agent>  LIST    message JSON, oldest first                              create, commit, deliver, retry
    :agent:<agent> HASH    token node claimed_at state last output processed       create, claim, commit, flush,
                           attempts threshold batch_max pool due delay error       settle, finish, retry, sweep
                           losses lost alone beside cut fresh
    :claims        ZSET    agent by end of lease (ms)                              claim, commit, renew, sweep
    :ready:<pool>  ZSET    agent by the time (ms) from which it may be claimed     those that change mail or claims
    :events        STREAM  t(ype) a(gent) p(ayload JSON)                           those with events in the header
    :delivered     ZSET    agent and id of messages from outside, by time (ms)     deliver
    :dead          STREAM  dead letters: i(d) a(gent) r(eason) m(essage JSON)      commit, deliver
    :logs          STREAM  output of running commands: a(gent) s(tream) t(ext)     log
    :op:<token>    STRING  mark of a claim, or with :done of a commit; 60 s        claim, commit

All but `:op` have no TTL while the job is live, and get its retention as TTL when it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ASKED: Final = "?"  # no job id begins with it


def result_channel(job_id: str) -> str:
    """The channel to which Celery's result consumer subscribes for the end of the task with this id."""
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
        """SET of live jobs."""
        return f"{self.ns}:jobs:live"

    @property
    def due(self) -> str:
        """ZSET of live jobs by the time (ms) at which the sweeper looks at them next.

        A mark, ASKED and the id, at 0: the job is being changed from outside of its runs, and needs a look after that.
        """
        return f"{self.ns}:jobs:due"

    @property
    def ended(self) -> str:
        """ZSET of ended jobs by the time (ms) at which their retention is over."""
        return f"{self.ns}:jobs:ended"

    def of_status(self, status: str) -> str:
        """ZSET of ended jobs with one status by submission time (ms)."""
        return f"{self.ns}:jobs:{status}"

    @property
    def ends(self) -> str:
        """CHANNEL: the key of a job that ended while agents were claimed."""
        return f"{self.ns}:ends"

    @property
    def sweeper(self) -> str:
        """STRING: token of the sweeper that holds the lease; expires with the lease."""
        return f"{self.ns}:lease:sweeper"

    @property
    def swept(self) -> str:
        """STRING: when the last sweep began (ms)."""
        return f"{self.ns}:swept_at"

    @property
    def nodes(self) -> str:
        """ZSET of worker names by last heartbeat (ms)."""
        return f"{self.ns}:nodes"

    def node(self, name: str) -> str:
        """STRING: JSON of one worker's registration; expires some heartbeats after the last one."""
        return f"{self.ns}:node:{name}"

    def holder(self, name: str) -> str:
        """STRING: the process that has a worker's name; expires like the registration."""
        return f"{self.ns}:holder:{name}"

    def manifest(self, digest: str) -> str:
        """STRING: JSON `{manifest, payloads}` of a bundle; expires when no kept job can need it."""
        return f"{self.ns}:manifest:{digest}"

    def bundle(self, payloads_digest: str) -> str:
        """HASH: number -> chunk of a payloads archive; expires with the manifest."""
        return f"{self.ns}:bundle:{payloads_digest}"

    def draft(self, payloads_digest: str, token: str) -> str:
        """HASH: chunks of a payloads archive in upload; expires. The hash tag puts it into the slot of its bundle."""
        return f"{self.ns}:draft:{{{self.bundle(payloads_digest)}}}:{token}"

    def job(self, job_id: str) -> str:
        """HASH: the job's record. The prefix of all its other keys."""
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
