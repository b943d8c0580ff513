"""Run the agents of one claim, in order. One commit writes all of their runs.

A message from one agent of the claim to a later one is passed on in memory, as *inline mail*, and is never written to
Redis. This keeps the order of messages only if the recipient's mailbox in Redis is still empty at the commit. The
commit checks that. If other mail has arrived, the caller commits `without_inline_mail` instead.

Light agents take microseconds. Executors and modules share a claim only while their runs are short: see `ClaimRuns`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from mirrorneuron.bundle.manifest import AgentType
from mirrorneuron.bundle.plan import Plan, PlannedNode
from mirrorneuron.store.protocol import Claim, Step, untouched
from workers.agents import aggregator, router, sensor
from workers.agents.draft import FULL_BYTES, FULL_MESSAGES, FULL_STEPS, Draft, StepContext
from workers.agents.failures import run_failure

HANDLERS: Final[dict[AgentType, Callable[[Draft], None]]] = {
    AgentType.ROUTER: router.handle,
    AgentType.AGGREGATOR: aggregator.handle,
    AgentType.SENSOR: sensor.handle,
}


def run(node: PlannedNode, claim: Claim, context: StepContext) -> Step:
    """Run one light agent. An exception becomes a step that fails the job."""
    draft = Draft(node, claim, context)
    try:
        HANDLERS[node.agent_type](draft)
        return draft.consumed()
    except Exception as error:  # damaged data in the store must fail the job, not crash the worker
        failure = run_failure(error)
        return draft.failed(str(failure), failure.details)


class ClaimRuns:
    """The runs of one claim.

    *run_heavy* runs an executor or a module, and *give_back* returns the step of one that has not run. Both may be
    left out for claims of light agents alone. When *is_over* returns True, no further executor or module runs: the
    rest is given back. While one agent runs, `over_so_far` has the runs before it, for an early commit.
    """

    def __init__(
        self,
        plan: Plan,
        claims: Sequence[Claim],
        context: StepContext,
        *,
        run_heavy: Callable[[PlannedNode, Claim], Step] | None = None,
        give_back: Callable[[Claim], Step] = untouched,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.claims = list(claims)  #: those that the steps of `run` belong to
        self._plan = plan
        self._context = context
        self._run_heavy = run_heavy
        self._give_back_heavy = give_back
        self._is_over = is_over
        # Only an agent that was claimed without mail may get inline mail: other mail in its mailbox would come first.
        self._inline_mail: dict[str, list[bytes]] = {claim.agent_id: [] for claim in claims if not claim.mail}
        self._steps: list[Step] = []
        self._running: Claim | None = None
        self._running_inline = False  #: the agent that runs now handles inline mail
        self._parted = False

    def run(self) -> list[Step]:
        """Run the agents and return their steps, one for each of `claims`. A step that ends the job is the last one.

        Once the steps are large enough for one commit, the remaining agents are released without a run. A later claim
        runs them.
        """
        messages = size = 0
        for number, claim in enumerate(list(self.claims)):
            inline = self._inline_mail.pop(claim.agent_id, None)
            full = messages >= FULL_MESSAGES or size >= FULL_BYTES or self._context.meter.spent >= FULL_STEPS
            light = self._plan.nodes[claim.agent_id].light
            if full or inline == [] or (number and not light and (self._is_over() or self._must_be_alone(claim))):
                if inline:
                    _send_inline_mail(self._steps, claim.agent_id)
                step = self._given_back(claim)
            else:
                step = self._run_one(claim, inline)
            messages, size = messages + len(step.outgoing), size + step.size
            if self._inline_mail:
                _make_inline(step, self._inline_mail)
            self._steps.append(step)
            if step.end or self._parted:
                break
        for agent in self._inline_mail:  # the loop ended before these agents: send their inline mail to their mailboxes
            _send_inline_mail(self._steps, agent)
        return self._steps

    def _run_one(self, claim: Claim, inline: list[bytes] | None) -> Step:
        """Run one agent on the mail of its claim, or on *inline* mail as much as it handles in one run."""
        node = self._plan.nodes[claim.agent_id]
        if inline is not None:
            claim = replace(claim, mail=tuple(inline[: node.batch_max]))
        self._running, self._running_inline = claim, inline is not None
        if node.light:
            step = run(node, claim, self._context)
        else:
            assert self._run_heavy is not None
            step = self._run_heavy(node, claim)
        self._running = None
        if inline is not None and not self._parted:
            step.inline_only = True
            if step.consumed < len(inline):  # the run failed or filled the commit: send the rest to the mailbox
                _send_inline_mail(self._steps, claim.agent_id, step.consumed)
            # Inline mail is not in the mailbox, so the commit must not remove anything from it.
            step.consumed = step.consumed_bytes = 0
        return step

    def over_so_far(self) -> list[Step]:
        """Steps of the runs that are over, and of the agents behind the one that runs, which are given back.

        Empty if nobody waits for them. All are copies, and the mail that they send to each other is in their mailboxes.
        """
        running = self._running
        if running is None or self._parted or len(self.claims) == 1:
            return []
        at = [claim.agent_id for claim in self.claims].index(running.agent_id)
        steps = [replace(s, outgoing=list(s.outgoing), inline_mail=list(s.inline_mail)) for s in self._steps]
        for claim in self.claims[at:]:
            _send_inline_mail(steps, claim.agent_id)
        steps += [self._given_back(claim) for claim in self.claims[at + 1 :]]
        if self._running_inline:
            steps.append(Step(running.agent_id, goes_on=True))
        return steps

    @property
    def running(self) -> str:
        """The agent that runs; "" between two runs."""
        return self._running.agent_id if self._running else ""

    def part(self) -> None:
        """Forget the runs of `over_so_far`, which a commit has written, and run no agent after the running one."""
        assert self._running is not None
        self._steps.clear()
        self._inline_mail.clear()
        self._parted = True
        self.claims = [self._running]

    def _must_be_alone(self, claim: Claim) -> bool:
        """True if *claim* or the first claim has a message that may have killed its worker."""
        return bool(claim.losses or self.claims[0].losses)

    def _given_back(self, claim: Claim) -> Step:
        return untouched(claim) if self._plan.nodes[claim.agent_id].light else self._give_back_heavy(claim)


def without_inline_mail(claims: Sequence[Claim], steps: Sequence[Step]) -> list[Step]:
    """Return *steps* without inline mail, one for each claim.

    Inline mail becomes ordinary outgoing messages, and the agents that ran on it are released as if they had not run.
    A step that ends the job is the last of *steps*; the claims after it are released as well.
    """
    for claim in claims:
        _send_inline_mail(steps, claim.agent_id)
    return [
        untouched(claim) if step is None or step.inline_only else step
        for claim, step in itertools.zip_longest(claims, steps)
    ]


def _make_inline(step: Step, inline_mail: dict[str, list[bytes]]) -> None:
    """Turn the outgoing messages of *step* to agents in *inline_mail*, which have not run yet, into inline mail."""
    for target, raw in step.outgoing:
        if target in inline_mail:
            inline_mail[target].append(raw)
            step.inline_mail.append((target, raw))
    if step.inline_mail:
        step.outgoing = [row for row in step.outgoing if row[0] not in inline_mail]


def _send_inline_mail(steps: Sequence[Step], agent: str, consumed: int = 0) -> None:
    """Turn the inline mail of *agent*, except the first *consumed* messages, back into outgoing messages."""
    for step in steps:
        inline = [row for row in step.inline_mail if row[0] == agent]
        sent = [row for row in step.outgoing if row[0] == agent]  # by an earlier call; they come after *inline*
        step.outgoing = [row for row in step.outgoing if row[0] != agent] + inline[consumed:] + sent
        step.inline_mail = [row for row in step.inline_mail if row[0] != agent] + inline[:consumed]
        consumed = max(0, consumed - len(inline))
