"""One typed method for each script in `lua/`. Only this module and `script_rows` know their arguments and replies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError

from mirrorneuron.bundle.manifest import Policies
from mirrorneuron.job import CELERY_STATE, JobStatus
from mirrorneuron.message import encode
from mirrorneuron.store.connection import RedisClient, checked_replies
from mirrorneuron.store.keys import ASKED, Keys, result_channel
from mirrorneuron.store.protocol import (
    Announcement,
    ControlReply,
    Created,
    JobEnd,
    JobRef,
    Reply,
    ReplyCode,
    Step,
    SweepReply,
)
from mirrorneuron.store.script_rows import Arg, control_reply, reply, step_args, swept
from mirrorneuron.store.script_sources import SHAS, SOURCES

MAX_MESSAGES: Final = 1_000  #: in one claim; an aggregator with a higher threshold gets that many
DELIVERED_KEPT: Final = 10_000  #: ids of messages from outside that are kept to detect duplicates
MAX_BYTES: Final = 16 * 1024 * 1024  #: of mail in one claim

Wanted = Sequence[tuple[str, int]]  #: (pool, maximum of agents); agents of the first pool that has any are claimed

NO_LIMITS: Final = Policies()


class Limits(NamedTuple):
    """What one job may keep in the store."""

    mail_bytes: int  #: of messages that wait, and the same of dead letters
    events: int
    event_bytes: int  #: of payloads


class Scripts:
    """The scripts on one server. *keep_s* is the retention of ended jobs, in seconds.

    *clock* (ms) replaces the server's time in tests.
    """

    def __init__(
        self,
        client: RedisClient,
        keys: Keys,
        *,
        node: str,
        lease_ms: int,
        keep_s: int,
        limits: Limits,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._node = node
        self._lease_ms = lease_ms
        self._keep_s = keep_s
        self._limits = limits
        self._clock = clock

    def create(
        self,
        job_id: str,
        *,
        digest: str,
        inputs_digest: str,
        static: bytes,
        names: bytes,
        pools: Sequence[str],
        policies: Policies = NO_LIMITS,
        agents: str,
        mail: Sequence[tuple[str, bytes]],
        announcement: Announcement | None = None,
        same_round_trip: Iterable[tuple[Arg, ...]] = (),
        send: Callable[[Sequence[tuple[Arg, ...]]], list[Any]] | None = None,
    ) -> Created:
        """Create a job, and announce it if an *announcement* is given.

        *names* is the JSON list of all its agents, which is read from its record when its bundle is lost. *agents* are
        those that are not plain light ones, as `Plan.settings_text` writes them. *same_round_trip* are commands for
        other slots, sent before the script. *send* sends all of them, instead of this object.
        """
        limits = (policies.job_timeout_ms, policies.idle_timeout_ms, policies.max_agent_restart_attempts)
        args: list[Arg] = [self._now(), digest, inputs_digest, static, " ".join(pools), names]
        args += ["" if limit is None else limit for limit in limits]
        args += [policies.recovery_mode, agents, *(announcement or ("", "", "", ""))]
        args += [part for row in mail for part in row]
        *others, answer = self._call_with(same_round_trip, "create", job_id, args, send)
        return Created(ReplyCode(answer[0].decode()), answer[1].decode(), bool(answer[2]), others)

    def claim(
        self, job: JobRef, token: str, wanted: Wanted, *, agents: Sequence[str] = (), opening: bool = False
    ) -> Reply:
        """Claim ready agents from the first pool of *wanted* that has any; or the first of *agents* if it is due, in
        the first pool of *wanted*.

        The other *agents* are claimed with it, without mail, up to the first one that is claimed or has mail.
        """
        args = [*self._claimer(job, token, token, wanted[0][0]), "open" if opening else "", job.digest, len(wanted)]
        args += [part for row in wanted for part in row]
        args += agents
        return reply(self._call("claim", job.job_id, args), token)

    def commit(
        self,
        job: JobRef,
        token: str,
        steps: Sequence[Step],
        next_token: str,
        wanted: Wanted = (),
        *,
        agents: Collection[str] = (),
        early: bool = False,
        idle_end: JobEnd | None = None,
    ) -> Reply:
        """Write *steps*, the runs of agents claimed under *token*; then claim from *wanted* under *next_token*.

        *agents* are all agents of the job. They are needed if a step ends the job, to set the TTL of all its keys.
        *early*: one run of the claim goes on, and is committed later; a claim has at most one such commit. *idle_end*
        is how the job ends if no step ends it and it is idle then.
        """
        end = next((step.end for step in steps if step.end), None)
        part = "early" if early else "idle" if idle_end and not end else ""
        end = end or idle_end
        args = [*self._claimer(job, token, next_token, wanted[-1][0] if wanted else ""), next_token, len(wanted)]
        args += [len(steps), sum(len(s.outgoing) for s in steps), sum(len(s.events) for s in steps)]
        args += [sum(len(s.dead) for s in steps), *self._limits, part]
        args += [part for row in wanted for part in row]
        for step in steps:
            args += step_args(step)
        args += [part for step in steps for row in step.outgoing for part in row]
        args += [part for step in steps for kind, payload in step.events for part in (kind, step.agent_id, payload)]
        args += [part for step in steps for row in step.dead for part in row]
        args += self._end(job, end, agents) if end else [""]
        return reply(self._call("commit", job.job_id, args), next_token)

    def renew(self, job: JobRef, token: str, agents: Sequence[str], *, alone: bool = False) -> ReplyCode:
        """Renew the lease of the claims of *agents* under *token*.

        *alone*: the run begins now, and no other run of its pool goes on in its worker.
        """
        args: list[Arg] = [self._now(), job.run, token, self._lease_ms, "alone" if alone else "", *agents]
        return ReplyCode(self._call("renew", job.job_id, args).decode())

    def flush(self, job: JobRef, revision: int, agents: Sequence[str]) -> Reply:
        """If the job is idle at *revision*, make those *agents* ready that wait for a full batch and have mail."""
        return reply(self._call("flush", job.job_id, [self._now(), job.run, revision, *agents]), "")

    def settle(self, job: JobRef, revision: int, end: JobEnd | None, agents: Collection[str] = ()) -> ReplyCode:
        """End a job that is idle at *revision*; if *end* is None, record that it is idle."""
        args: list[Arg] = [self._now(), job.run, revision, *(self._end(job, end, agents) if end else ["wait"])]
        return ReplyCode(self._call("settle", job.job_id, args).decode())

    def finish(self, job: JobRef, end: JobEnd, agents: Collection[str]) -> ReplyCode:
        """End a live job from outside its runs. *agents* are all its agents."""
        return ReplyCode(
            self._call_looked_at("finish", job.job_id, [self._now(), job.run, *self._end(job, end, agents)]).decode()
        )

    def pause_resume(self, job_id: str, to: JobStatus, payload: bytes) -> ControlReply:
        """Pause or resume a job. Idempotent."""
        return control_reply(self._call_looked_at("pause_resume", job_id, [self._now(), to, payload]))

    def deliver(self, job_id: str, agent: str, message_id: str, message: bytes, dead: str = "") -> ControlReply:
        """Append a message from outside to an agent's mailbox. Idempotent by agent and message id.

        *dead* is the stream entry of the dead letter that the message replays. Returns GONE if the entry is gone, and
        FULL if the job has too much mail.
        """
        args: list[Arg] = [self._now(), agent, message_id, message, DELIVERED_KEPT, dead, self._limits.mail_bytes]
        return control_reply(self._call_looked_at("deliver", job_id, args))

    def retry(
        self, job: JobRef, payload: bytes, agents: Collection[str], start: str, clear: Sequence[tuple[str, Arg]]
    ) -> tuple[ControlReply, int]:
        """Continue a failed or cancelled job as another run. Returns the reply and the number of the new run.
        Idempotent by *job*, also if the new run has ended.

        *agents* are all agents of the job. With *start*, the agents of *clear*, (agent, threshold) for *start* and all
        agents downstream of it, lose their state and mail, and *start* gets its last input again.
        """
        rows = [part for row in clear for part in row]
        args: list[Arg] = [self._now(), start, payload, job.run, len(clear), *rows, *agents]
        raw = self._call_looked_at("retry", job.job_id, args)
        return control_reply(raw[:3]), int(raw[3])

    def delete(self, job_id: str, agents: Collection[str]) -> ReplyCode:
        """Delete an ended job with all its keys. *agents* are all its agents."""
        return ReplyCode(self._call("delete", job_id, list(agents)).decode())

    def sweep_all(
        self, job_ids: Sequence[str], *, now_ms: Arg, after_gap: bool = False, set_back: bool = False
    ) -> list[SweepReply | Exception]:
        """Free the claims whose lease was over at *now_ms* (server time). The replies say what else each job needs.

        One round trip. An exception stands for the reply of a job whose record is damaged. *after_gap*: no claim could
        be renewed since the last sweep, so each gets a fresh lease, once. *set_back*: the server's clock was set back,
        so leases and delays are shortened to what they would be if they began now.
        """
        args: list[Arg] = [now_ms, self._lease_ms, int(after_gap), int(set_back), encode({"node_name": self._node})]
        commands = [("EVALSHA", SHAS["sweep"], 1, self._keys.job(job_id), *args) for job_id in job_ids]
        replies = self._round_trip(commands, raise_on_error=False)
        if any(isinstance(reply, NoScriptError) for reply in replies):  # idempotent
            commands[0] = ("EVAL", SOURCES["sweep"], *commands[0][2:])
            replies = self._round_trip(commands, raise_on_error=False)
        return [swept(*row) for row in zip(job_ids, checked_replies(replies), strict=True)]

    def log(self, job_id: str, chunks: Sequence[tuple[str, str, str]], max_bytes: int) -> ReplyCode:
        """Append output of commands, (agent, stream, text). Only the newest *max_bytes* of the job are kept."""
        args: list[Arg] = [max_bytes, self._keep_s, *(part for chunk in chunks for part in chunk)]
        return ReplyCode(self._call("log", job_id, args).decode())

    def _now(self) -> Arg:
        return self._clock() if self._clock else ""

    def _claimer(self, job: JobRef, token: str, next_token: str, pool: str) -> list[Arg]:
        lease = encode({"lease_id": next_token, "pool": pool, "node_name": self._node})
        return [self._now(), job.run, token, self._node, self._lease_ms, lease, MAX_MESSAGES, MAX_BYTES]

    def _end(self, job: JobRef, end: JobEnd, agents: Collection[str]) -> list[Arg]:
        # The notice is small on purpose: a waiter that gets it reads the job map, which alone is the truth.
        notice = encode({"task_id": job.job_id, "status": CELERY_STATE[end.status]})
        channel = result_channel(job.job_id)
        return [
            end.status,
            end.result,
            end.summary,
            channel,
            notice,
            self._keys.ends,
            self._keep_s,
            len(agents),
            *agents,
        ]

    def _round_trip(self, commands: Iterable[tuple[Arg, ...]], *, raise_on_error: bool = True) -> list[Any]:
        """Send the commands in one round trip. If the server refuses one, all are retried; raises in the end."""
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = pipe.execute(raise_on_error=raise_on_error)
        return replies

    def _call(self, name: str, job_id: str, args: Sequence[Arg]) -> Any:
        key = self._keys.job(job_id)
        try:
            return self._client.evalsha(SHAS[name], 1, key, *args)
        except NoScriptError:  # the server was restarted, or is another one
            return self._client.eval(SOURCES[name], 1, key, *args)

    def _call_with(
        self,
        others: Iterable[tuple[Arg, ...]],
        name: str,
        job_id: str,
        args: Sequence[Arg],
        send: Callable[[Sequence[tuple[Arg, ...]]], list[Any]] | None = None,
    ) -> list[Any]:
        """Send *others*, and then call a script, in one round trip, by *send*. Returns all replies."""
        others, call = tuple(others), (1, self._keys.job(job_id), *args)
        try:
            return (send or self._round_trip)((*others, ("EVALSHA", SHAS[name], *call)))
        except NoScriptError:  # the server was restarted, or is another one
            return self._round_trip((*others, ("EVAL", SOURCES[name], *call)))

    def _call_looked_at(self, name: str, job_id: str, args: Sequence[Arg]) -> Any:
        """Call a script that changes a job from outside of its runs, which the sweeper has to look at then."""
        return self._call_with([("ZADD", self._keys.due, 0, ASKED + job_id)], name, job_id, args)[-1]
