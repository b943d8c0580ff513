"""Runs of routers, aggregators and sensors: pure, and many in one commit.

Mail for an agent of the same claim that has not run yet is handed over in memory (inline mail) and never touches Redis.
The commit checks that no other mail reached that mailbox meanwhile; if it did, `without_inline_mail` is committed.
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
from workers.agents.draft import FULL_BYTES, FULL_MESSAGES, Draft, StepContext, run_failure

HANDLERS: Final[dict[AgentType, Callable[[Draft], None]]] = {
    AgentType.ROUTER: router.handle,
    AgentType.AGGREGATOR: aggregator.handle,
    AgentType.SENSOR: sensor.handle,
}


def run_light(plan: Plan, claims: Sequence[Claim], context: StepContext) -> list[Step]:
    """The steps of *claims*, in order, up to the one that ends the job.

    Those for which one commit would carry too much are given back as they were, and run with the next claim.
    """
    # Only agents that were claimed without mail can be handed any: for the others it would not be the next in line.
    inline_mail: dict[str, list[bytes]] = {claim.agent_id: [] for claim in claims if not claim.mail}
    steps: list[Step] = []
    messages = size = 0
    for claim in claims:
        given = inline_mail.pop(claim.agent_id, None)
        if messages >= FULL_MESSAGES or size >= FULL_BYTES:
            if given:
                _send_inline_mail(steps, claim.agent_id)
            step = untouched(claim)
        elif given is None:
            step = run(plan.nodes[claim.agent_id], claim, context)
        elif given:
            step = run(plan.nodes[claim.agent_id], replace(claim, mail=tuple(given)), context)
            step.inline_only = True
            if step.consumed < len(given):  # it failed, or has enough for one commit: the rest is mail like any other
                _send_inline_mail(steps, claim.agent_id, step.consumed)
            step.consumed = 0  # none of it was ever in the mailbox
        else:
            step = untouched(claim)
        messages, size = messages + len(step.outgoing), size + step.size
        if inline_mail:
            _hand_over(step, inline_mail)
        steps.append(step)
        if step.end:
            break
    for agent in inline_mail:  # those that were not reached keep what they were handed
        _send_inline_mail(steps, agent)
    return steps


def run(node: PlannedNode, claim: Claim, context: StepContext) -> Step:
    """One run of one light agent, whatever it is given."""
    draft = Draft(node, claim, context)
    try:
        HANDLERS[node.agent_type](draft)
        return draft.consumed()
    except Exception as error:  # nothing that stands in the store may end a worker or leave a job without an end
        failure = run_failure(error)
        return draft.failed(str(failure), failure.details)


def without_inline_mail(claims: Sequence[Claim], steps: Sequence[Step]) -> list[Step]:
    """The steps that were handed nothing; the other agents are given back as they were, and what was handed is sent.

    There are fewer steps than claims where one ends the job; if it is among those given back, so are all behind it.
    """
    for claim in claims:
        _send_inline_mail(steps, claim.agent_id)
    return [
        untouched(claim) if step is None or step.inline_only else step
        for claim, step in itertools.zip_longest(claims, steps)
    ]


def _hand_over(step: Step, inline_mail: dict[str, list[bytes]]) -> None:
    """Move what *step* sends to agents that still wait in this claim from its mail to theirs."""
    for target, raw in step.outgoing:
        if target in inline_mail:
            inline_mail[target].append(raw)
            step.inline_mail.append((target, raw))
    if step.inline_mail:
        step.outgoing = [row for row in step.outgoing if row[0] not in inline_mail]


def _send_inline_mail(steps: Sequence[Step], agent: str, answered: int = 0) -> None:
    """Send what had been handed to *agent* within the claim, and is not *answered*, as mail after all."""
    for step in steps:
        mine = [row for row in step.inline_mail if row[0] == agent]
        rest = [row for row in step.outgoing if row[0] == agent]  # what was put back before comes after these
        step.outgoing = [row for row in step.outgoing if row[0] != agent] + mine[answered:] + rest
        step.inline_mail = [row for row in step.inline_mail if row[0] != agent] + mine[:answered]
        answered = max(0, answered - len(mine))
