"""How a step is written in the arguments of a script, and how the replies of scripts are read."""

from __future__ import annotations

from typing import Any

from mirrorneuron.store.protocol import (
    Claim,
    ControlReply,
    JobRef,
    ReadyAgents,
    Reply,
    ReplyCode,
    Step,
    SweepReply,
    WaitingAgents,
)

Arg = str | bytes | int


def step_args(step: Step) -> list[Arg]:
    threshold = "" if step.threshold is None else step.threshold
    delay = "" if step.delay_ms is None else step.delay_ms
    inline = 2 if step.goes_on else int(step.inline_only)
    row: list[Arg] = [
        step.agent_id,
        step.consumed,
        step.state,
        step.last,
        step.output,
        step.processed,
        threshold,
        step.attempts,
    ]
    return [*row, delay, step.error, inline, step.consumed_bytes, int(step.not_run)]


def reply(raw: Any, token: str) -> Reply:
    word, revision, idle, waiting, claims = raw
    return Reply(
        word=ReplyCode(word.decode()),
        revision=int(revision),
        idle=idle == 1,
        ended=idle == 2,
        waiting=ready_agents(waiting),
        claims=tuple(
            Claim(agent.decode(), state, int(processed), int(attempts), int(waited), tuple(mail), int(losses or 0))
            for agent, state, processed, attempts, waited, mail, losses in claims
        ),
        token=token,
    )


def swept(job_id: str, raw: Any) -> SweepReply | Exception:
    """Decode the reply of `sweep`; an error is returned as it is."""
    if isinstance(raw, Exception):
        return raw
    word, run, digest, revision, waiting, agent, losses, since, look = raw
    return SweepReply(
        ReplyCode(word.decode()),
        JobRef(job_id, int(run), digest.decode("utf-8", "replace")) if digest else None,
        int(revision),
        tuple(
            WaitingAgents(pool.decode(), due, new, one.decode(), oldest.decode(), int(ready))
            for pool, due, new, one, oldest, ready in waiting
        ),
        agent.decode(),
        int(losses),
        int(since),
        int(look) or None,
    )


def ready_agents(rows: Any) -> tuple[ReadyAgents, ...]:
    return tuple(ReadyAgents(pool.decode(), due, new, one.decode()) for pool, due, new, one in rows)


def control_reply(raw: Any) -> ControlReply:
    word, status, waiting = raw
    return ControlReply(ReplyCode(word.decode()), status.decode("utf-8", "replace"), ready_agents(waiting))
