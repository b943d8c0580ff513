"""A job whose announcement is lost, while it gets messages from outside until a node has taken its agent."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Final

from mirrorneuron.api.resources import Resources
from mirrorneuron.chaos import graphs
from mirrorneuron.chaos.invariants import Expected
from mirrorneuron.chaos.stage import Stage
from mirrorneuron.errors import JobStateError

EVERY_S: Final = 0.05  #: between two messages
NOWHERE: Final = "memory://"  #: a broker within this process: no worker reads what is published there


class Feed:
    """One such job. The lost announcement is that of the job if *opening*, otherwise that of its first message.

    Uses the parts of a `Client`, which has threads, as the crash test may not. Each call can be repeated after an
    error of the connection.
    """

    def __init__(self, stage: Stage, job_id: str, *, opening: bool) -> None:
        self.job_id = job_id
        self._heard = Resources(stage.settings)
        self._unheard = Resources(stage.settings.model_copy(update={"broker_url": NOWHERE}))
        self._submitter = self._unheard if opening else self._heard
        folder = graphs.fed_for_long().write(stage.folder / "bundles")
        self._request = self._heard.preparation.prepare(folder, None, {})
        self._before = 0 if opening else 1  #: messages that the agent consumes before the loss
        self._sent = 0
        self._sent_s = -math.inf
        self.taken = False  #: has a node taken the agent after the loss?
        self.over = False  #: has everything been sent?

    @property
    def expected(self) -> Expected:
        return graphs.fed_for_long(self._sent).expected

    def submit(self) -> None:
        self._submitter.submission.submit(self._request, self.job_id)

    def go_on(self) -> None:
        """Send the next message if it is due, and let the job end once its agent has been taken and has read all."""
        if self.over or time.monotonic() < self._sent_s + EVERY_S:
            return
        self._sent_s = time.monotonic()
        consumed = self._consumed()
        self.taken = self.taken or consumed > self._before
        if self.taken and consumed == 1 + self._sent:
            self._send(self._heard, "gate", self._sent)
            self.over = True
        elif not self.taken and consumed == self._before:
            self._send(self._unheard, "source", self._sent + 1)
            self._sent += 1

    def again(self) -> None:
        """Submit the job and send its messages again, after a loss of writes. What is not lost has no effect twice."""
        self.submit()
        for number in range(1, 1 + self._sent):
            self._send(self._heard if self.taken else self._unheard, "source", number)
        self.over = False

    def _consumed(self) -> int:
        store = self._heard.store
        (source,) = (agent for agent in store.agents(store.known_job(self.job_id)) if agent["agent_id"] == "source")
        return source["processed_messages"]

    def _send(self, sender: Resources, agent: str, number: int) -> None:
        envelope = {"message_id": f"{self.job_id}:{agent}:{number}"}  # fixed: a repetition is harmless
        with suppress(JobStateError):  # the job has ended: the check at the end tells whether it should have
            sender.control.deliver_message(self.job_id, agent, {"envelope": envelope, "body": number})
