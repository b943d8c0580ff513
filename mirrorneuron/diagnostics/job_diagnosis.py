"""Derive from the facts about a job why it does not move: one cause, since when, and what to do. Pure.

The checks are in order of precedence: causes that need an action, causes that pass by themselves, normal states.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypedDict

from mirrorneuron.bundle.manifest import AgentType, RecoveryMode
from mirrorneuron.diagnostics.job_facts import JobFacts
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.job import TERMINAL, JobStatus, iso
from mirrorneuron.pools import LIGHT, worker_command
from mirrorneuron.text import count, first_names, shortage_hint, span

SILENT: Final = 0.5  # of a lease: it is renewed after every third, so with less than this left a renewal was missed
Text: TypeAlias = str | None


class Cause(StrEnum):
    ENDED = "ended"
    PAUSED = "paused"
    STORE_AWAY = "store_away"
    BROKER_AWAY = "broker_away"
    NO_NODE = "no_node"  #: no node serves a pool that the job waits for
    UNHEALTHY_NODE = "unhealthy_node"  #: every node of such a pool lacks something
    DEAD_NODE = "dead_node"  #: an agent is claimed by a worker that no longer renews its lease
    NOT_OPENED = "not_opened"  #: no worker has started the job yet
    RUNNING = "running"  #: an agent runs
    SLOTS_BUSY = "slots_busy"  #: an agent is ready, and every slot of its pool is taken
    QUEUED = "queued"  #: an agent is ready, and a slot is free
    RETRY_WAIT = "retry_wait"  #: an agent is due later: the next attempt of a failed run, or a delayed start
    WAITING_OUTSIDE = "waiting_outside"  #: a sensor waits for a message from outside the job
    INCOMPLETE = "incomplete"  #: an aggregator waits for messages that no agent can send
    IDLE = "idle"  #: no agent is ready


class Diagnosis(TypedDict):
    """Why a job does not move."""

    job_id: str
    cause: str  #: a Cause
    since: str | None
    agent_id: str | None
    pool: str | None
    message: str  #: one line: the cause
    hint: str  #: one line: what to do


def diagnose(facts: JobFacts) -> Diagnosis:
    """Return the diagnosis of the first check that applies."""
    return next(found for check in CHECKS if (found := check(facts)) is not None)


def store_away(job_id: str, error: RuntimeUnavailable) -> Diagnosis:
    """The diagnosis for a job whose store cannot be read."""
    hint, cause = f"{error.hint or 'see the log of the server'}; jobs continue when it is back", Cause.STORE_AWAY
    return Diagnosis(job_id=job_id, cause=cause, since=None, agent_id=None, pool=None, message=error.message, hint=hint)


def _diagnosis(
    facts: JobFacts, cause: Cause, said: str, hint: str, since: Text = None, agent: Text = None, pool: Text = None
) -> Diagnosis:
    job = facts.job["job_id"]
    return Diagnosis(job_id=job, cause=cause, since=since, agent_id=agent, pool=pool, message=said, hint=hint)


def _ended(facts: JobFacts) -> Diagnosis | None:
    status, result = JobStatus(facts.job["status"]), facts.job["result"] or {}
    if status not in TERMINAL:
        return None
    agent, hint = result.get("agent_id"), f"continue where it stopped: {_mn(facts, 'retry')}"
    if status is JobStatus.COMPLETED:
        said, hint = "the job is completed", f"see its result: {_mn(facts, 'job inspect')}"
    elif status is JobStatus.FAILED:
        said = f"the job failed{f' in {agent}' if agent else ''}: {result.get('error')}"
        if agent and not facts.plan.nodes[agent].light:
            hint = f"see its output: {_mn(facts, 'logs', agent)}; {hint}"
    else:
        reason = "" if result.get("reason") in (None, "cancelled") else f": {result['reason']}"
        said = f"the job was cancelled by {result.get('by') or 'an unknown user'}{reason}"
    return _diagnosis(facts, Cause.ENDED, said, hint, facts.job["finished_at"], agent)


def _paused(facts: JobFacts) -> Diagnosis | None:
    if facts.job["status"] != JobStatus.PAUSED:
        return None
    event: Mapping[str, Any] = facts.paused or {}
    agent, user = event.get("agent_id"), (event.get("payload") or {}).get("by", "an unknown user")
    said = f"the job was paused by {user}"
    if agent:
        said = f"the job is paused: the worker that ran {agent} was lost, and the job's recovery_mode is manual_recover"
    if facts.held_count:
        said += f"; {count(facts.held_count, 'agent')} still running"
    return _diagnosis(facts, Cause.PAUSED, said, f"resume it: {_mn(facts, 'resume')}", event.get("timestamp"), agent)


def _broker_away(facts: JobFacts) -> Diagnosis | None:
    if not facts.broker_error:
        return None
    hint = "start the broker, or set MIRROR_NEURON_BROKER_URL; jobs continue when it is back"
    return _diagnosis(facts, Cause.BROKER_AWAY, facts.broker_error, hint)


def _no_node(facts: JobFacts) -> Diagnosis | None:
    """No node can open the job, run its ready agents, or settle it when no agent is ready."""
    pending, moved_on = facts.job["status"] == JobStatus.PENDING, facts.held or facts.job["idle_since"]
    wanted = list(facts.due) if facts.due or moved_on else [LIGHT]
    if pending:
        wanted = [facts.plan.opening_pool]
    if not facts.nodes:
        wanted += [facts.plan.nodes[held.agent_id].pool for held in facts.held]
    pool = next((pool for pool in wanted if not facts.serving(pool, facts.slots(pool))), None)
    if pool is None:
        return None
    due, stopping = facts.due.get(pool), [node["name"] for node in facts.nodes if pool in node["pools"]]
    said = f"no node serves {_pool(pool)}"
    if not facts.nodes:
        said = "no node is alive"
    elif due and (served := facts.serving(pool)):
        largest = max(node["pools"][pool]["slots"] for node in served)
        said = f"{due.agent_id} needs {facts.slots(pool)} slots of {_pool(pool)}, and the largest node has {largest}"
    elif stopping:
        said += f", except some that are stopping: {first_names(stopping)}"
    elif due and pool != LIGHT:
        others = sorted({name for node in facts.nodes for name in node["pools"]} - {LIGHT})
        said += f", which {due.agent_id} needs; served pools: {first_names(others) or 'none'}"
    since = iso(due.at_ms) if due and due.at_ms <= facts.now_ms else facts.job["updated_at"]
    agent, hint = due.agent_id if due else None, f"start one: {worker_command(pool, facts.plan.slots(pool))}"
    return _diagnosis(facts, Cause.NO_NODE, said, hint, since, agent, pool)


def _unhealthy_node(facts: JobFacts) -> Diagnosis | None:
    for pool, due in facts.due.items():
        nodes = facts.serving(pool)
        if nodes and all(node.get("unhealthy") for node in nodes) and (found := nodes[0]["unhealthy"]):
            said = f"{due.agent_id} waits for a healthy node: {nodes[0]['name']} is unhealthy: {found['reason']}"
            hint = f"{shortage_hint(found['reason'])} on {nodes[0]['host']}; it tries again by itself"
            return _diagnosis(facts, Cause.UNHEALTHY_NODE, said, hint, found["since"], due.agent_id, pool)
    return None


def _dead_node(facts: JobFacts) -> Diagnosis | None:
    held = min(facts.held, key=lambda held: held.until_ms, default=None)
    if held is None or held.until_ms - facts.now_ms > SILENT * facts.lease_ms:
        return None
    pool, left_ms = facts.plan.nodes[held.agent_id].pool, held.until_ms - facts.now_ms
    said = f"{held.agent_id} is claimed by {held.node}, which no longer renews its lease"
    since, claimed_at = iso(held.until_ms - facts.lease_ms), iso(held.since_ms)
    # A worker of the same name that started after the claim is a new one: the supervisor has replaced the dead one.
    if not [n for n in facts.serving(pool) if n["name"] != held.node or n["started_at"] > claimed_at]:
        start = worker_command(pool, facts.plan.slots(pool))
        hint = f"no other worker serves {_pool(pool)}; start one unless {held.node} comes back: {start}"
    elif facts.plan.policies.recovery_mode == RecoveryMode.MANUAL_RECOVER:
        then = f"then resume it: {_mn(facts, 'resume')}"
        hint = f"wait: in {span(left_ms)} the job is paused, because its recovery_mode is manual_recover; {then}"
    else:
        hint = f"wait: in {span(left_ms)} another worker takes over {held.agent_id}"
    return _diagnosis(facts, Cause.DEAD_NODE, said, hint, since, held.agent_id, pool)


def _not_opened(facts: JobFacts) -> Diagnosis | None:
    if facts.job["status"] != JobStatus.PENDING or facts.plan.opening_pool != LIGHT:
        return None  # a job whose entrypoint takes a slot waits for that slot
    ahead, hint = _queue(facts, LIGHT)
    said, since = f"no worker has started the job yet{ahead}", facts.job["submitted_at"]
    return _diagnosis(facts, Cause.NOT_OPENED, said, hint, since, pool=LIGHT)


def _running(facts: JobFacts) -> Diagnosis | None:
    if not facts.held:
        return None
    # Commands and modules come first: a light agent is usually done before the answer is read.
    nodes = facts.plan.nodes
    first = min(facts.held, key=lambda held: (nodes[held.agent_id].light, held.since_ms))
    said = f"{first.agent_id} runs on {first.node}"
    if first.attempts:
        said += f", after {count(first.attempts, 'failed run')} ({first.error})"
    if facts.held_count > 1:
        said += f"; {count(facts.held_count - 1, 'other agent')} running too"
    pool, hint = nodes[first.agent_id].pool, f"follow its output: {_mn(facts, 'logs', first.agent_id, '--follow')}"
    hint = "wait: a light agent runs only briefly" if pool == LIGHT else hint
    return _diagnosis(facts, Cause.RUNNING, said, hint, iso(first.since_ms), first.agent_id, pool)


def _waiting_for_a_slot(facts: JobFacts) -> Diagnosis | None:
    pool = next((pool for pool, due in facts.due.items() if due.at_ms <= facts.now_ms), None)
    if pool is None:
        return None
    due, pools = facts.due[pool], [node["pools"][pool] for node in facts.serving(pool)]
    busy, slots = facts.busy.get(pool, ()), sum(row["slots"] for row in pools)
    # `in_use` is as old as the node's last heartbeat; claims are current.
    in_use = max(sum(row["in_use"] for row in pools), len(busy))
    who = due.agent_id if due.count == 1 else f"{due.agent_id} and {count(due.count - 1, 'other agent')}"
    need, most = facts.slots(pool), max((row["slots"] - row["in_use"] for row in pools), default=0)
    if pool != LIGHT and (in_use >= slots or most < need > 1):
        what = f"no slot of {_pool(pool)} is free" if need == 1 else f"no node has {need} free slots of {_pool(pool)}"
        said = f"{what} for {who}: {count(in_use, 'slot')} taken"
        said += f", by {first_names(busy)}" if busy else ""
        cause, hint = Cause.SLOTS_BUSY, f"wait, or start another node: {worker_command(pool, facts.plan.slots(pool))}"
    else:
        free = "" if pool == LIGHT else f", with {slots - in_use} of {count(slots, 'slot')} of {_pool(pool)} free"
        ahead, hint = _queue(facts, pool)
        verb = "is" if due.count == 1 else "are"
        cause, said = Cause.QUEUED, f"{who} {verb} ready{free}{ahead}"
    return _diagnosis(facts, cause, said, hint, iso(due.at_ms), due.agent_id, pool)


def _retry_wait(facts: JobFacts) -> Diagnosis | None:
    if not facts.due:
        return None
    pool, due = min(facts.due.items(), key=lambda row: row[1].at_ms)
    agent, when = due.agent_id, f"in {span(due.at_ms - facts.now_ms)}"
    said, hint = f"{agent} starts {when}, because of its startup_delay_ms", "wait"
    if (slots := facts.slots(pool)) > 1 and not facts.plan.nodes[agent].config.get("startup_delay_ms"):
        said = f"{agent} is offered to the nodes again {when}: it needs {slots} free slots of {_pool(pool)}"
    if due.attempts:
        most = facts.plan.nodes[agent].config.get("max_attempts", 1)
        said = f"{agent} is retried {when}; attempt {due.attempts} of {most} failed: {due.error}"
        hint = f"wait, or see its output: {_mn(facts, 'logs', agent)}"
    return _diagnosis(facts, Cause.RETRY_WAIT, said, hint, facts.job["updated_at"], agent, pool)


def _starved(facts: JobFacts) -> Diagnosis | None:
    """An aggregator lacks messages, and no agent can send them."""
    since, lost = facts.job["idle_since"], _lost(facts)
    # An empty aggregator counts only if messages were lost: otherwise its branch may simply not have been taken.
    short = next((row for row in facts.short if not row.fed and (row.have or lost)), None)
    if not short or not since:
        return None
    said = (
        f"{short.agent_id} has {short.have} of {count(short.threshold, 'message')}, and no agent can send it more{lost}"
    )
    send, cancel = _mn(facts, "send", short.agent_id, "message.json"), _mn(facts, "cancel")
    hint = f"send the missing messages: {send}; or cancel the job: {cancel}"
    if facts.dead_letters:
        replay = f"{_mn(facts, 'replay', 'MESSAGE')} [--to AGENT]"
        hint = f"list the dead letters: {_mn(facts, 'dead-letters')}; replay one: {replay}"
    return _diagnosis(facts, Cause.INCOMPLETE, said, hint, since, short.agent_id)


def _idle(facts: JobFacts) -> Diagnosis:
    since = facts.job["idle_since"]
    if not since:
        said, hint = "no agent is ready, and a worker is about to settle the job", "wait: this takes about a second"
        return _diagnosis(facts, Cause.IDLE, said, hint, facts.job["updated_at"])
    more = f"; list the dead letters: {_mn(facts, 'dead-letters')}" if facts.dead_letters else ""
    more += "" if facts.serving(LIGHT) else f"; and start a node: {worker_command(LIGHT)}"
    if sensors := [node.node_id for node in facts.plan.nodes.values() if node.agent_type == AgentType.SENSOR]:
        said = f"the job waits for a message from outside to {first_names(sensors)}"
        short = [f"; {row.agent_id} has {row.have} of {row.threshold} messages" for row in facts.short if row.have]
        said = "".join([said, *short[:3], _lost(facts)])
        hint = f"send one: {_mn(facts, 'send', sensors[0], 'message.json')}{more}"
        return _diagnosis(facts, Cause.WAITING_OUTSIDE, said, hint, since, sensors[0])
    said = f"no agent is ready, and the job's on_idle policy is to wait{_lost(facts)}"
    send, cancel = _mn(facts, "send", "AGENT", "message.json"), _mn(facts, "cancel")
    hint = f"send a message: {send}; or cancel the job: {cancel}{more}"
    return _diagnosis(facts, Cause.IDLE, said, hint, since)


CHECKS: Final[tuple[Callable[[JobFacts], Diagnosis | None], ...]] = (
    _ended, _paused, _broker_away, _no_node, _unhealthy_node, _dead_node, _not_opened, _running,
    _waiting_for_a_slot, _retry_wait, _starved, _idle,
)  # fmt: skip


def _lost(facts: JobFacts) -> str:
    """The messages that an idle job has lost: the usual reason why a job stops early."""
    names, lost = list(facts.unrouted), sum(facts.unrouted.values())
    said = f"; {count(lost, 'message')} of {first_names(names)} matched no edge" if names else ""
    return said + (f"; {count(facts.dead_letters, 'dead letter')}" if facts.dead_letters else "")


def _queue(facts: JobFacts, pool: str) -> tuple[str, str]:
    """The number of tasks in the pool's queue, as text, and the hint for a queued agent."""
    nodes = facts.serving(pool)
    queued = max((node["pools"][pool]["queued"] or 0 for node in nodes), default=0)
    names = first_names([node["name"] for node in nodes])
    hint = "wait: a lost announcement is repeated after 5 s, then at growing intervals"
    hint = f"{hint}; or run `mn doctor`, and see the log of {names}"
    return f"; {count(queued, 'task')} in the queue" if queued else "", hint


def _pool(pool: str) -> str:
    return "light agents" if pool == LIGHT else f"pool {pool!r}"


def _mn(facts: JobFacts, verb: str, *words: str) -> str:
    """An `mn` command on the job, quoted for a shell."""
    return f"mn {verb} {shlex.join([facts.job['job_id'], *words])}"
