"""Creates jobs: record, initial mail, index entries and announcement, in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from mirrorneuron.bundle.load import PackedBundle
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.errors import PayloadTooLarge
from mirrorneuron.job import TERMINAL, iso
from mirrorneuron.message import encode, seed
from mirrorneuron.settings import Settings
from mirrorneuron.store.bundle_store import BundleStore
from mirrorneuron.store.direct_line import DirectLine, NotDirect
from mirrorneuron.store.job_index import JobIndex
from mirrorneuron.store.look_schedule import first_look_ms
from mirrorneuron.store.protocol import Announcement, Created, ReplyCode
from mirrorneuron.store.script_rows import Arg
from mirrorneuron.store.scripts import Scripts
from mirrorneuron.store.server_clock import ServerClock

MAX_DIRECT_BYTES: Final = 64 * 1024  #: a socket takes so much at once, however slow the server is


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A job that is to be created."""

    job_id: str
    plan: Plan
    bundle: PackedBundle
    static: Mapping[str, Any]  #: the constant fields of the job map
    inputs: Mapping[str, Sequence[Any]]  #: agent -> payloads of its initial mail
    inputs_digest: str
    announcement: tuple[str, bytes] | None = None  #: queue on this server, message


class JobCreation:
    """Creates the jobs of one namespace."""

    def __init__(
        self,
        settings: Settings,
        scripts: Scripts,
        index: JobIndex,
        bundles: BundleStore,
        direct: DirectLine,
        clock: ServerClock,
    ) -> None:
        self._settings = settings
        self._scripts = scripts
        self._index = index
        self._bundles = bundles
        self._direct = direct
        self._clock = clock

    def create(self, draft: JobDraft) -> Created:
        """Create a `pending` job with its initial mail. One atomic script, idempotent by job id.

        The word is CREATED; EXISTS if the job exists with this bundle and inputs of this digest; else CONFLICT.
        Also stores the bundle if a part of it is missing. Announces a pending job whose bundle is stored, if the draft
        has an announcement. Raises PayloadTooLarge.
        """
        now = self._clock.now_ms()
        created, has_bundle = self._create(draft, now, self._mail(draft, now), None)
        if created.word is not ReplyCode.CONFLICT and not has_bundle:
            self._bundles.put(draft.bundle)
        if created.status in TERMINAL:
            self._index.mark_ended([draft.job_id])  # by its record: a retry may run meanwhile
        self._direct.open_one()
        return created

    def create_directly(self, draft: JobDraft, seconds: float) -> None:
        """Create and announce a job in this thread, within *seconds*. Raises PayloadTooLarge, and NotDirect.

        After NotDirect the job may have been created: `create` finds it, and does what is left.
        """
        now = self._clock.known_ms()
        if now is None or draft.announcement is None:
            raise NotDirect
        mail = self._mail(draft, now)
        of_plan = len(draft.plan.names_json) + len(draft.plan.settings_text)
        if sum(len(text) for _, text in mail) + of_plan > MAX_DIRECT_BYTES:
            raise NotDirect
        created, has_bundle = self._create(draft, now, mail, partial(self._direct.ask_all, seconds))
        if not created.announced or not has_bundle:
            raise NotDirect

    def _mail(self, draft: JobDraft, now: int) -> list[tuple[str, bytes]]:
        """The messages of the job, each with its agent. Raises PayloadTooLarge."""
        job_id, stamp = draft.job_id, iso(now)
        mail = [
            (agent, encode(seed(payload, job_id=job_id, to=agent, message_id=f"{job_id}:{agent}:{n}", timestamp=stamp)))
            for agent, payloads in draft.inputs.items()
            for n, payload in enumerate(payloads)
        ]
        total, most = sum(len(text) for _, text in mail), self._settings.max_mail_bytes
        if total > most:
            raise PayloadTooLarge(f"the initial inputs have {total} bytes, MIRROR_NEURON_MAX_MAIL_BYTES is {most}")
        agent, largest = max(mail, key=lambda row: len(row[1]), default=("", b""))
        cap = self._settings.max_message_bytes
        if len(largest) > cap:
            size = f"{len(largest)} bytes, MIRROR_NEURON_MAX_MESSAGE_BYTES is {cap}"
            raise PayloadTooLarge(f"an initial input of node {agent!r} has {size}")
        return mail

    def _create(
        self,
        draft: JobDraft,
        now: int,
        mail: Sequence[tuple[str, bytes]],
        send: Callable[[Sequence[tuple[Arg, ...]]], list[Any]] | None,
    ) -> tuple[Created, bool]:
        """Create the job. Also returns whether the server has all parts of the bundle."""
        plan, bundle, keys = draft.plan, draft.bundle, self._bundles.keys_of(draft.bundle)
        renewals = self._bundles.renewals(bundle.digest, bundle.payloads_digest)
        look_ms = now + first_look_ms(plan.policies, self._settings.claim_lease_ms)
        created = self._scripts.create(
            draft.job_id,
            digest=bundle.digest,
            inputs_digest=draft.inputs_digest,
            static=encode(draft.static),
            names=plan.names_json,
            pools=plan.pools,
            policies=plan.policies,
            agents=plan.settings_text,
            mail=mail,
            announcement=draft.announcement and Announcement(*draft.announcement, *keys),
            same_round_trip=[*renewals, *self._index.entries(draft.job_id, now, look_ms)],
            send=send,
        )
        return created, all(created.others[: len(renewals)])
