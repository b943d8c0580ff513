"""The operator's controls: pause, resume, cancel, send, replay, retry, clean up. Each is atomic and idempotent."""

from __future__ import annotations

import getpass
import logging
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from mirrorneuron.bundle.exact_json import inexact_values
from mirrorneuron.bundle.parse import kind
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.errors import (
    AgentNotFound,
    BundleNotFound,
    JobNotFound,
    JobStateError,
    MessageInvalid,
    MessageNotFound,
    PayloadTooLarge,
)
from mirrorneuron.job import TERMINAL, JobMap, JobStatus, iso, ms_of
from mirrorneuron.message import encode, seed
from mirrorneuron.pools import LIGHT
from mirrorneuron.store.call_threads import settled
from mirrorneuron.store.job_store import Store
from mirrorneuron.store.protocol import ControlReply, JobEnd, JobRef, ReadyAgents, ReplyCode

log = logging.getLogger("mirrorneuron")

ChainsOf = Callable[[Plan], Chains]
ROUNDS: Final = 5  # attempts to cancel a job that a concurrent retry restarts


class Control:
    """Controls the jobs of *store*; *chains_of* makes the Chains of a plan."""

    def __init__(self, store: Store, chains_of: ChainsOf) -> None:
        self._store = store
        self._chains_of = chains_of

    def pause(self, job_id: str) -> JobMap:
        """Start no new run. Runs in progress finish and commit; messages queue up."""
        moved = self._store.scripts.pause_resume(job_id, JobStatus.PAUSED, _who())
        return self._job_or_error(job_id, moved, "paused")

    def resume(self, job_id: str) -> JobMap:
        """Resume a paused job."""
        moved = self._store.scripts.pause_resume(job_id, JobStatus.RUNNING, _who())
        job = settled(self._job_or_error(job_id, moved, "resumed"))
        self._announce(job_id, moved.waiting)
        return job

    def cancel(self, job_id: str, reason: str | None) -> JobMap:
        """Cancel a job: its running commands are killed on every node, and its mailboxes are kept for a retry."""
        for _ in range(ROUNDS):
            job = self._store.known_job(job_id)
            if JobStatus(job["status"]) in TERMINAL:
                break
            ref = self._ref(job_id)
            result = {"reason": reason or "cancelled", "by": _user()}
            end = JobEnd(JobStatus.CANCELLED, encode(result), encode(result))
            if self._store.scripts.finish(ref, end, self._agents(ref)) is ReplyCode.SETTLED:
                self._store.index.mark_ended([job_id])
        job = self._store.known_job(job_id)
        if job["status"] != JobStatus.CANCELLED:
            raise JobStateError(f"job {job_id!r} cannot be cancelled: it is {job['status']}")
        return job

    def deliver_message(self, job_id: str, agent: str, payload: Any) -> str:
        """Append a message to an agent's mailbox and return its id. *payload* as in `initial_inputs`, an object."""
        if not isinstance(payload, Mapping):
            raise MessageInvalid(
                f'a message must be an object, not {kind(payload)} (put the value into a body: {{"body": ...}})'
            )
        for path, problem in inexact_values(dict(payload)):
            raise MessageInvalid(f"{path or 'the message'} {problem}")
        new = secrets.token_hex(16)
        try:
            message = seed(payload, job_id=job_id, to=agent, message_id=new, timestamp=self._stamp())
            text = encode(message)
        except ValueError as error:
            raise MessageInvalid(str(error)) from error
        return self._append(job_id, agent, str(message["envelope"]["message_id"]), text)

    def replay(self, job_id: str, message_id: str, agent: str | None) -> str:
        """Send a dead letter again, to its recipient or to *agent*, and return the new message's id."""
        job = self._store.known_job(job_id)
        found = [(entry, dead) for entry, dead in self._store.dead_letters(job) if dead["message_id"] == message_id]
        if not found:
            raise MessageNotFound(f"job {job_id!r} has no dead letter {message_id!r}")
        entry, dead = found[-1]
        if not entry:
            raise JobStateError(
                f"job {job_id!r} failed on this message and keeps it in the mailbox: retry the job instead"
            )
        target, new = agent or dead["agent_id"], secrets.token_hex(16)
        fresh = {"message_id": new, "to": target, "causation_id": message_id, "timestamp": self._stamp()}
        message = {**dead["message"], "envelope": {**dead["message"]["envelope"], **fresh}}
        return self._append(job_id, target, new, encode(message), entry)

    def _append(self, job_id: str, agent: str, message_id: str, text: bytes, dead: str = "") -> str:
        hint = "; give another recipient: --to AGENT" if dead else ""
        self._require_agent(job_id, self._plan(self._ref(job_id)), agent, hint)
        cap = self._store.settings.max_message_bytes
        if len(text) > cap:
            raise PayloadTooLarge(f"the message has {len(text)} bytes, MIRROR_NEURON_MAX_MESSAGE_BYTES is {cap}")
        moved = self._store.scripts.deliver(job_id, agent, message_id, text, dead)
        if moved.word is ReplyCode.MISSING:
            raise JobNotFound(job_id)
        if moved.word is ReplyCode.FULL:
            limit = f"MIRROR_NEURON_MAX_MAIL_BYTES ({self._store.settings.max_mail_bytes} bytes)"
            raise PayloadTooLarge(f"job {job_id!r} accepts no message now: its waiting messages would exceed {limit}")
        if moved.word is ReplyCode.GONE:
            raise MessageNotFound(f"job {job_id!r}: the dead letter was already replayed, or dropped for newer ones")
        if moved.word is ReplyCode.ENDED:
            raise JobStateError(f"job {job_id!r} accepts no messages: it is {moved.status}")
        settled(message_id)
        self._announce(job_id, [row for row in moved.waiting if row.new])
        return message_id

    def retry(self, job_id: str, start: str | None) -> JobMap:
        """Continue a failed or cancelled job where it stopped, or rerun it from agent *start* downstream."""
        ref = self._ref(job_id)
        plan = self._plan(ref)
        if start is not None:
            self._require_agent(job_id, plan, start)
        clear = [(name, plan.nodes[name].threshold or "") for name in (plan.downstream_of(start) if start else ())]
        self._store.index.mark_live(job_id)
        moved, _ = self._store.scripts.retry(ref, _who(), plan.nodes.keys(), start or "", clear)
        if moved.word is ReplyCode.REFUSED and JobStatus(moved.status) in TERMINAL:
            self._store.index.mark_ended([job_id])
        job = self._job_or_error(job_id, moved, "retried")
        self._store.index.mark_live(
            job_id
        )  # again: another process may have marked the previous run as ended meanwhile
        settled(job)
        # If no agent is ready, a drain finds the job idle and settles it.
        self._announce(job_id, moved.waiting or [ReadyAgents(LIGHT, 2, 0, "")])
        return job

    def cleanup(self, *, live_too: bool, older_than: timedelta | None) -> Iterator[list[str]]:
        """Delete ended jobs that were updated longer ago than *older_than*; with *live_too*, cancel live ones first.

        In steps of a few round trips: yields the ids of the jobs that each step deleted.
        """
        chosen: list[str] = []
        for page in self._store.job_pages():
            for job in page:
                ended = JobStatus(job["status"]) in TERMINAL
                age = timedelta(milliseconds=self._store.clock.now_ms() - ms_of(job["updated_at"]))
                if (not ended and not live_too) or (older_than is not None and age < older_than):
                    continue
                if not ended:
                    with suppress(JobNotFound, JobStateError):  # it has ended meanwhile
                        self.cancel(job["job_id"], "cleaned up")
                    yield []
                chosen.append(job["job_id"])
            yield []
        digests: set[str] = set()
        for job_id in chosen:
            ref = self._delete(job_id)
            digests |= {ref.digest} if ref else set()
            yield [job_id] if ref else []
        if digests:
            self._store.free_bundles(digests)

    def delete(self, job_ids: Iterable[str]) -> list[str]:
        """Delete the records of ended jobs and all their keys; return the ids of the deleted jobs."""
        deleted = [ref for ref in map(self._delete, job_ids) if ref]
        if deleted:
            self._store.free_bundles({ref.digest for ref in deleted})
        return list(dict.fromkeys(ref.job_id for ref in deleted))

    def _delete(self, job_id: str) -> JobRef | None:
        """Delete an ended job. None if it is live or does not exist."""
        ref = self._store.ref(job_id)
        return ref if ref is not None and self._store.delete(job_id, self._agents(ref)) else None

    def _announce(self, job_id: str, waiting: Iterable[ReadyAgents]) -> None:
        rows = list(waiting)
        if not rows:
            return
        ref = self._ref(job_id)
        chains = self._chains_of(self._plan(ref))
        try:
            for row in rows:
                chains.announce(ref, row)
        except Exception as error:
            # Broker clients raise errors of any type. The store has the change, and the sweeper announces ready agents.
            log.warning("job %s: announcement failed; the sweeper will repeat it: %s", job_id, error)

    def _job_or_error(self, job_id: str, moved: ControlReply, done: str) -> JobMap:
        """The job map after a control that was carried out; raises the error of a refused one."""
        if moved.word is ReplyCode.MISSING:
            raise JobNotFound(job_id)
        job = self._store.known_job(job_id)  # raises RecordDamaged
        if moved.word is not ReplyCode.SETTLED:
            raise JobStateError(f"job {job_id!r} cannot be {done}: it is {moved.status}")
        return job

    def _stamp(self) -> str:
        return iso(self._store.clock.now_ms())

    def _ref(self, job_id: str) -> JobRef:
        ref = self._store.ref(job_id)
        if ref is None:
            raise JobNotFound(job_id)
        return ref

    def _plan(self, ref: JobRef) -> Plan:
        return self._store.plan(ref.digest)[0]

    def _agents(self, ref: JobRef) -> list[str]:
        try:
            return list(self._plan(ref).nodes)
        except BundleNotFound:  # the store has lost the bundle
            return self._store.found_agents(ref.job_id)

    def check_agent(self, job_id: str, agent: str) -> None:
        """Raise JobNotFound or AgentNotFound if the job or the agent does not exist."""
        self._require_agent(job_id, self._plan(self._ref(job_id)), agent)

    def _require_agent(self, job_id: str, plan: Plan, agent: str, hint: str = "") -> None:
        if agent not in plan.nodes:
            raise AgentNotFound(f"job {job_id!r} has no agent {agent!r}; its agents: {_first_names(plan.nodes)}{hint}")


def _first_names(names: Mapping[str, Any]) -> str:
    shown = ", ".join(list(names)[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _user() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name, as in some containers
        return socket.gethostname()


def _who() -> bytes:
    return encode({"by": _user()})
