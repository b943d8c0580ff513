"""Run the light agents of one claim (routers, aggregators, sensors). Nothing here does I/O.

A message from one agent of the claim to a later one is passed on in memory, as *inline mail*, and is never written to
Redis. This keeps the order of messages only if the recipient's mailbox in Redis is still empty at the commit. The
commit checks that. If other mail has arrived, the caller commits `without_inline_mail` instead.
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


def run_light(plan: Plan, claims: Sequence[Claim], context: StepContext) -> list[Step]:
    """Run the agents of *claims* in order and return their steps. A step that ends the job is the last one.

    Once the steps are large enough for one commit, the remaining agents are released without a run. A later claim runs
    them.
    """
    # Only an agent that was claimed without mail may get inline mail: other mail in its mailbox would come first.
    inline_mail: dict[str, list[bytes]] = {claim.agent_id: [] for claim in claims if not claim.mail}
    steps: list[Step] = []
    messages = size = 0
    for claim in claims:
        inline = inline_mail.pop(claim.agent_id, None)
        if messages >= FULL_MESSAGES or size >= FULL_BYTES or context.meter.spent >= FULL_STEPS:
            if inline:
                _send_inline_mail(steps, claim.agent_id)
            step = untouched(claim)
        elif inline is None:
            step = run(plan.nodes[claim.agent_id], claim, context)
        elif inline:
            step = run(plan.nodes[claim.agent_id], replace(claim, mail=tuple(inline)), context)
            step.inline_only = True
            if step.consumed < len(inline):  # the run failed or filled the commit: send the rest to the mailbox
                _send_inline_mail(steps, claim.agent_id, step.consumed)
            # Inline mail is not in the mailbox, so the commit must not remove anything from it.
            step.consumed = step.consumed_bytes = 0
        else:
            step = untouched(claim)
        messages, size = messages + len(step.outgoing), size + step.size
        if inline_mail:
            _make_inline(step, inline_mail)
        steps.append(step)
        if step.end:
            break
    for agent in inline_mail:  # the loop ended before these agents: send their inline mail to their mailboxes
        _send_inline_mail(steps, agent)
    return steps


def run(node: PlannedNode, claim: Claim, context: StepContext) -> Step:
    """Run one light agent. An exception becomes a step that fails the job."""
    draft = Draft(node, claim, context)
    try:
        HANDLERS[node.agent_type](draft)
        return draft.consumed()
    except Exception as error:  # damaged data in the store must fail the job, not crash the worker
        failure = run_failure(error)
        return draft.failed(str(failure), failure.details)


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
