"""Diagnoses from made-up facts: each cause, its message and hint, and the precedence of causes."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, get_args

import pytest
from typer.models import OptionInfo

from mirrorneuron.bundle.load import validate_manifest
from mirrorneuron.bundle.plan import make_plan
from mirrorneuron.cli.command_table import COMMANDS, Entry, Group
from mirrorneuron.diagnostics.job_diagnosis import Cause, Diagnosis, diagnose, store_away
from mirrorneuron.diagnostics.job_facts import (
    ClaimedAgent,
    DueAgents,
    JobFacts,
    StarvedAggregator,
    short_of,
    unrouted_of,
)
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.job import iso
from tests.support.graphs import agent, collector, executor, manifest, router

NOW = 1_800_000_000_000
LEASE = 6_000
THEN = "2026-01-31T12:00:00.000Z"  # all times in the job map
GRAPH = manifest(
    [
        router("spread"),
        executor("work", "true", max_attempts=5),
        executor("train", "true", pool="gpu", pool_slots=2),
        collector("all", 5),
    ],
    [("spread", "work", "go"), ("work", "all", "done"), ("train", "all", "done")],
)
FED = manifest([agent("ear", "sensor", output_message_type="heard"), collector("all", 5)], [("ear", "all", "heard")])


def node(name: str, *, stopping: bool = False, **pools: tuple[int, int, int | None]) -> Any:
    """A node by the slots, slots in use and queued tasks of its pools."""
    rows = {pool: dict(zip(("slots", "in_use", "queued"), row, strict=True)) for pool, row in pools.items()}
    return {"name": name, "pools": rows, "stopping": stopping, "started_at": THEN}


LIGHT = node("light@a", light=(1, 0, 0))
DEFAULT = node("default@a", default=(2, 0, 0))
SICK = DEFAULT | {"host": "a", "unhealthy": {"reason": "disk full", "since": THEN}}
BOTH = (LIGHT, DEFAULT)


def facts(graph: Mapping[str, Any] = GRAPH, *, status: str = "running", idle: bool = False, **more: Any) -> JobFacts:
    """A running job on a node that serves light agents and the pool default, unless *more* says otherwise."""
    job = {
        "job_id": "j-1",
        "status": status,
        "submitted_at": THEN,
        "updated_at": THEN,
        "finished_at": THEN if status in ("completed", "failed", "cancelled") else None,
        "idle_since": THEN if idle else None,
        "result": more.pop("result", None),
    }
    plan = make_plan(validate_manifest(graph).manifest)
    return JobFacts(NOW, job, plan, LEASE, **{"nodes": BOTH, **more})  # type: ignore[arg-type]


def held(agent_id: str = "work", *, since: int = 60_000, left: int = LEASE, **more: Any) -> dict[str, Any]:
    """Facts with one claimed agent."""
    return {"held": [ClaimedAgent(agent_id, f"default@{agent_id}", NOW - since, NOW + left, **more)], "held_count": 1}


def due(pool: str, agent_id: str, in_ms: int = -2_000, **more: Any) -> dict[str, Any]:
    return {"due": {pool: DueAgents(agent_id, NOW + in_ms, **more)}}


def paused(**event: Any) -> dict[str, Any]:
    return {"status": "paused", "paused": {"id": "1-0", "timestamp": THEN, "job_id": "j-1", "type": "p", **event}}


def said(given: JobFacts) -> tuple[str, str, str]:
    found = diagnose(given)
    return found["cause"], found["message"], found["hint"]


ALL_CAUSES: dict[Cause, Diagnosis] = {
    Cause.ENDED: diagnose(facts(status="completed")),
    Cause.PAUSED: diagnose(facts(**paused(payload={"by": "ann@desk"}))),
    Cause.STORE_AWAY: store_away("j-1", RuntimeUnavailable("no answer", hint="start it")),
    Cause.BROKER_AWAY: diagnose(facts(broker_error="the broker at amqp://x does not answer")),
    Cause.NO_NODE: diagnose(facts(**due("gpu", "train"))),
    Cause.UNHEALTHY_NODE: diagnose(facts(nodes=[LIGHT, SICK], **due("default", "work"))),
    Cause.DEAD_NODE: diagnose(facts(**held(left=1_000))),
    Cause.NOT_OPENED: diagnose(facts(status="pending")),
    Cause.RUNNING: diagnose(facts(**held())),
    Cause.SLOTS_BUSY: diagnose(facts(nodes=[LIGHT, node("d", default=(2, 2, 0))], **due("default", "work"))),
    Cause.QUEUED: diagnose(facts(**due("default", "work"))),
    Cause.RETRY_WAIT: diagnose(facts(**due("default", "work", 9_000, attempts=1))),
    Cause.WAITING_OUTSIDE: diagnose(facts(FED, idle=True)),
    Cause.INCOMPLETE: diagnose(facts(idle=True, dead_letters=1, short=[StarvedAggregator("all", 4, 5, fed=False)])),
    Cause.IDLE: diagnose(facts(idle=True)),
}


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_message_and_a_hint_of_one_line(cause: Cause) -> None:
    found = ALL_CAUSES[cause]
    assert (found["cause"], found["job_id"]) == (cause, "j-1")
    assert found["message"]
    assert found["hint"]
    assert "\n" not in found["message"] + found["hint"]


def test_a_job_does_not_wait_for_an_unhealthy_node_if_another_one_is_healthy() -> None:
    found = ALL_CAUSES[Cause.UNHEALTHY_NODE]
    assert found["message"] == "work waits for a healthy node: default@a is unhealthy: disk full"
    assert (found["since"], found["agent_id"], found["pool"]) == (THEN, "work", "default")
    both = [LIGHT, SICK, node("default@b", default=(2, 0, 0))]
    assert diagnose(facts(nodes=both, **due("default", "work")))["cause"] == Cause.QUEUED


@pytest.mark.parametrize("cause", Cause)
def test_a_hint_names_commands_and_options_that_exist(cause: Cause) -> None:
    for command in re.findall(r"\bmn ([^;`]+)", ALL_CAUSES[cause]["hint"]):
        words = shlex.split(command)
        entry = COMMANDS[words[0]]
        if isinstance(entry, Group):
            entry = entry.table[words[1]]
        options = {word for word in words if word.startswith("--")}
        assert options <= options_of(entry), command


def options_of(entry: Entry) -> set[str]:
    module, _, function = entry.target.partition(":")
    found = inspect.signature(getattr(import_module(f"mirrorneuron.cli.commands.{module}"), function), eval_str=True)
    hints = [hint for parameter in found.parameters.values() for hint in get_args(parameter.annotation)]
    known = [hint for hint in hints if isinstance(hint, OptionInfo)]
    return {str(name) for hint in known for name in (hint.default, *(hint.param_decls or ()))}  # as Annotated has it


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"status": "failed", "result": {}}, {"broker_error": "away"}),
        (paused(), {"broker_error": "away"}),
        (paused(), {"nodes": []}),
        ({"broker_error": "away"}, {"nodes": [], **due("default", "work")}),
        (due("gpu", "train"), held(left=-1)),
        (due("gpu", "train"), held()),
        ({"status": "pending", "nodes": []}, held()),
        (held(left=-1), {"due": {"default": DueAgents("work", NOW)}}),
        (held(), {"due": {"default": DueAgents("work", NOW)}}),
        (held(), {"due": {"default": DueAgents("work", NOW + 5_000)}}),
        (due("default", "work", -5_000), {"short": [StarvedAggregator("all", 4, 5, fed=False)]}),
        (due("default", "work", 5_000), {"short": [StarvedAggregator("all", 4, 5, fed=False)]}),
        ({"idle": True, "short": [StarvedAggregator("all", 4, 5, fed=False)]}, {"unrouted": {"work": 1}}),
    ],
)
def test_causes_that_need_an_action_precede_those_that_pass_by_themselves(first: Any, second: Any) -> None:
    cause = diagnose(facts(**first))["cause"]
    assert diagnose(facts(**second))["cause"] != cause
    assert diagnose(facts(**{**second, **first}))["cause"] == cause


def test_a_pool_without_a_node_precedes_a_pool_with_free_slots() -> None:
    both = {"default": DueAgents("work", NOW), "gpu": DueAgents("train", NOW)}
    assert diagnose(facts(due=both))["pool"] == "gpu"


def test_a_completed_job_points_to_its_result() -> None:
    found = diagnose(facts(status="completed"))
    assert (found["message"], found["hint"]) == ("the job is completed", "see its result: mn job inspect j-1")
    assert found["since"] == THEN


def test_a_failed_job_says_where_and_why() -> None:
    result = {"agent_id": "work", "error": "command exited with code 3"}
    _, message, hint = said(facts(status="failed", result=result))
    assert message == "the job failed in work: command exited with code 3"
    assert hint == "see its output: mn logs j-1 work; continue where it stopped: mn retry j-1"


@pytest.mark.parametrize("name", [None, "spread"])
def test_a_light_agent_has_no_logs_to_point_to_after_a_failure(name: str | None) -> None:
    _, _, hint = said(facts(status="failed", result={"agent_id": name, "error": "broken"}))
    assert hint == "continue where it stopped: mn retry j-1"


@pytest.mark.parametrize(("reason", "expected"), [("cancelled", ""), ("too dear", ": too dear")])
def test_a_cancelled_job_says_by_whom_and_why_if_a_reason_was_given(reason: str, expected: str) -> None:
    _, message, _ = said(facts(status="cancelled", result={"reason": reason, "by": "ann@desk"}))
    assert message == f"the job was cancelled by ann@desk{expected}"


def test_a_paused_job_says_by_whom_since_when_and_what_still_runs() -> None:
    found = diagnose(facts(**paused(payload={"by": "ann@desk"}), **held()))
    assert found["message"] == "the job was paused by ann@desk; 1 agent still running"
    assert (found["hint"], found["since"]) == ("resume it: mn resume j-1", THEN)


def test_a_job_paused_for_a_lost_worker_names_the_agent() -> None:
    found = diagnose(facts(**paused(agent_id="work")))
    assert found["message"].startswith("the job is paused: the worker that ran work was lost")
    assert found["agent_id"] == "work"


def test_a_pause_is_reported_without_its_event() -> None:
    assert said(facts(status="paused"))[:2] == ("paused", "the job was paused by an unknown user")


def test_an_unreachable_store_is_a_message_and_a_hint() -> None:
    error = RuntimeUnavailable("the job store at redis://x does not answer (refused)", hint="start it, or set URL")
    found = store_away("j-1", error)
    assert found["message"] == "the job store at redis://x does not answer (refused)"
    assert found["hint"] == "start it, or set URL; jobs continue when it is back"
    assert (
        store_away("j-1", RuntimeUnavailable("refused: OOM"))["hint"]
        == "see the log of the server; jobs continue when it is back"
    )


@pytest.mark.parametrize(
    ("more", "message", "hint"),
    [
        ({"status": "pending", "nodes": []}, "no node is alive", "mn worker"),
        ({"status": "pending", "nodes": [DEFAULT]}, "no node serves light agents", "mn worker"),
        ({"nodes": []}, "no node is alive", "mn worker"),  # no node settles the idle job
        ({"nodes": [], **held(left=LEASE)}, "no node is alive", "mn worker"),
        ({"nodes": [LIGHT], **due("default", "work")}, ", which work needs; served pools: none", "mn worker"),
        (
            due("gpu", "train"),
            "no node serves pool 'gpu', which train needs; served pools: default",
            "mn worker --pool gpu --slots 2",
        ),
        (
            {"nodes": [LIGHT, node("d@a", stopping=True, default=(2, 0, 0))], **due("default", "work")},
            "no node serves pool 'default', except some that are stopping: d@a",
            "mn worker",
        ),
    ],
)
def test_an_unserved_pool_is_reported_with_the_command_that_starts_a_node(more: Any, message: str, hint: str) -> None:
    cause, text, do = said(facts(**more))
    assert (cause, do) == ("no_node", f"start one: {hint}")
    assert text.endswith(message)


def test_an_unserved_pool_is_missed_since_the_agent_was_ready_but_never_since_a_future_time() -> None:
    assert diagnose(facts(**due("gpu", "train", -2_000)))["since"] == iso(NOW - 2_000)
    assert diagnose(facts(**due("gpu", "train", 2_000)))["since"] == THEN


def test_a_dead_worker_is_named_with_the_time_of_the_takeover() -> None:
    found = diagnose(facts(**held(left=2_000)))
    assert found["message"] == "work is claimed by default@work, which no longer renews its lease"
    assert found["hint"] == "wait: in 2 s another worker takes over work"
    assert (found["agent_id"], found["since"]) == ("work", iso(NOW + 2_000 - LEASE))
    assert said(facts(**held(left=-9_000)))[2] == "wait: in a moment another worker takes over work"


def test_a_dead_worker_without_a_replacement_needs_a_new_node() -> None:
    own = [LIGHT, node("default@work", default=(2, 1, 0))]
    _, _, hint = said(facts(nodes=own, **held(left=0)))
    assert hint == "no other worker serves pool 'default'; start one unless default@work comes back: mn worker"
    own[1]["started_at"] = iso(NOW)
    assert said(facts(nodes=own, **held(left=0)))[2].startswith("wait"), "the supervisor has replaced it"


def test_after_a_lost_worker_some_jobs_wait_for_a_resume() -> None:
    manual = {**GRAPH, "policies": {"recovery_mode": "manual_recover"}}
    assert said(facts(manual, **held(left=0)))[2].endswith("; then resume it: mn resume j-1")


@pytest.mark.parametrize(("queued", "expected"), [(0, ""), (1, "; 1 task in the queue"), (3, "; 3 tasks in the queue")])
def test_a_job_that_is_not_opened_says_how_many_tasks_are_queued(queued: int, expected: str) -> None:
    found = diagnose(facts(status="pending", nodes=[node("light@a", light=(1, 0, queued))]))
    assert found["message"] == f"no worker has started the job yet{expected}"
    assert found["since"] == THEN
    assert found["hint"].endswith("see the log of light@a")


def test_an_unknown_queue_length_is_not_reported() -> None:
    assert "queue" not in said(facts(status="pending", nodes=[node("light@a", light=(1, 0, None))]))[1]


def test_of_several_running_agents_the_longest_command_is_named() -> None:
    rows = [held("spread", since=9_000), held("work", since=3_000), held("train", since=5_000)]
    found = diagnose(facts(held=[row["held"][0] for row in rows], held_count=7))
    assert found["message"] == "train runs on default@train; 6 other agents running too"
    assert found["hint"] == "follow its output: mn logs j-1 train --follow"
    assert (found["agent_id"], found["pool"], found["since"]) == ("train", "gpu", iso(NOW - 5_000))


def test_a_repeated_run_says_how_often_and_why_it_failed_before() -> None:
    assert (
        said(facts(**held(attempts=1, error="exit 3")))[1] == "work runs on default@work, after 1 failed run (exit 3)"
    )
    assert "after 2 failed runs (exit 3)" in said(facts(**held(attempts=2, error="exit 3")))[1]


def test_a_running_light_agent_has_no_output_to_follow() -> None:
    assert said(facts(**held("spread")))[2] == "wait: a light agent runs only briefly"


@pytest.mark.parametrize(
    ("count", "slots", "expected"),
    [(1, 1, "is free for work: 1 slot taken"), (3, 2, "is free for work and 2 other agents: 2 slots taken")],
)
def test_taken_slots_are_reported_with_their_number(count: int, slots: int, expected: str) -> None:
    nodes = [LIGHT, node("d@a", default=(slots, slots, 4))]
    found = diagnose(facts(nodes=nodes, **due("default", "work", count=count)))
    assert found["message"] == f"no slot of pool 'default' {expected}"
    assert found["hint"] == "wait, or start another node: mn worker"
    assert (found["agent_id"], found["pool"], found["since"]) == ("work", "default", iso(NOW - 2_000))


def test_holders_of_slots_are_known_before_the_next_heartbeat() -> None:
    busy = {"default": ["a/x", "b/y", "c/z", "d/w"]}
    nodes = [LIGHT, node("d@a", default=(2, 0, 0)), node("d@b", default=(2, 1, 0))]
    cause, message, _ = said(facts(nodes=nodes, busy=busy, **due("default", "work")))
    assert cause == "slots_busy"
    assert message.endswith(": 4 slots taken, by a/x, b/y, c/z and 1 more")


def test_a_ready_agent_with_a_free_slot_is_queued() -> None:
    nodes = [LIGHT, node("d@a", default=(2, 1, 3)), node("d@b", default=(2, 0, 3))]
    cause, message, hint = said(facts(nodes=nodes, **due("default", "work", count=2)))
    expected = "work and 1 other agent are ready, with 3 of 4 slots of pool 'default' free; 3 tasks in the queue"
    assert (cause, message) == ("queued", expected)
    assert hint.endswith("see the log of d@a, d@b")


def test_a_light_agent_needs_no_slot() -> None:
    assert said(facts(**due("light", "spread")))[:2] == ("queued", "spread is ready")


def test_a_retry_says_when_which_attempt_and_why() -> None:
    rows = {
        "default": DueAgents("work", NOW + 90_000, attempts=2, error="exit 3"),
        "light": DueAgents("all", NOW + 99_000),
    }
    cause, message, hint = said(facts(due=rows))
    assert (cause, message) == ("retry_wait", "work is retried in 1 min 30 s; attempt 2 of 5 failed: exit 3")
    assert hint == "wait, or see its output: mn logs j-1 work"


def test_a_delayed_start_is_not_called_a_retry() -> None:
    _, message, _ = said(facts(**due("default", "work", 3_600_000)))
    assert message == "work starts in 1 h, because of its startup_delay_ms"


def test_a_job_that_waits_for_a_message_names_the_sensor_and_incomplete_aggregators() -> None:
    found = diagnose(
        facts(
            FED, idle=True, short=[StarvedAggregator("all", 2, 5, fed=True), StarvedAggregator("more", 0, 2, fed=True)]
        )
    )
    assert found["message"] == "the job waits for a message from outside to ear; all has 2 of 5 messages"
    assert (found["hint"], found["since"]) == ("send one: mn send j-1 ear message.json", THEN)
    assert found["agent_id"] == "ear"


def test_a_waiting_job_reports_dead_letters_and_missing_nodes() -> None:
    _, message, hint = said(facts(FED, idle=True, dead_letters=2, nodes=[]))
    assert message.endswith("; 2 dead letters")
    assert hint.endswith("; list the dead letters: mn dead-letters j-1; and start a node: mn worker")


def test_a_starved_aggregator_says_how_many_messages_it_has() -> None:
    found = diagnose(facts(idle=True, short=[StarvedAggregator("all", 4, 5, fed=False)], unrouted={"work": 1}))
    expected = "all has 4 of 5 messages, and no agent can send it more; 1 message of work matched no edge"
    assert (found["message"], found["agent_id"], found["since"]) == (expected, "all", THEN)
    assert found["hint"] == "send the missing messages: mn send j-1 all message.json; or cancel the job: mn cancel j-1"


def test_a_starved_aggregator_points_to_dead_letters_first() -> None:
    _, message, hint = said(facts(idle=True, short=[StarvedAggregator("all", 4, 5, fed=False)], dead_letters=1))
    assert message.endswith("no agent can send it more; 1 dead letter")
    assert hint == "list the dead letters: mn dead-letters j-1; replay one: mn replay j-1 MESSAGE [--to AGENT]"


def test_an_empty_aggregator_is_starved_only_if_messages_were_lost() -> None:
    empty = facts(idle=True, short=[StarvedAggregator("all", 0, 5, fed=False)])
    assert diagnose(empty)["cause"] == "idle"
    assert diagnose(replace(empty, unrouted={"work": 5, "train": 1}))["message"].endswith(
        "all has 0 of 5 messages, and no agent can send it more; 6 messages of work, train matched no edge"
    )


def test_an_idle_job_says_how_to_send_a_message_and_how_to_cancel() -> None:
    _, message, hint = said(facts(idle=True))
    assert message == "no agent is ready, and the job's on_idle policy is to wait"
    assert hint == "send a message: mn send j-1 AGENT message.json; or cancel the job: mn cancel j-1"


def test_an_unsettled_job_is_not_called_incomplete() -> None:
    found = said(facts(short=[StarvedAggregator("all", 4, 5, fed=False)], unrouted={"work": 1}))
    assert found[::2] == ("idle", "wait: this takes about a second")


def test_commands_in_hints_are_quoted_for_a_shell() -> None:
    graph = manifest([executor("it's work", "true")])
    assert said(facts(graph, **held("it's work")))[2].endswith("""mn logs j-1 'it'"'"'s work' --follow""")


def snapshot(agent_id: str, depth: int = 0, **metadata: Any) -> Any:
    return {"agent_id": agent_id, "mailbox_depth": depth, "metadata": metadata}


def test_an_aggregators_messages_are_its_mailbox_and_its_collected_ones() -> None:
    plan = make_plan(validate_manifest(GRAPH).manifest)
    assert short_of(plan, [snapshot("all", 3, collected=1), snapshot("work", 3)]) == [
        StarvedAggregator("all", 4, 5, fed=False)
    ]
    assert short_of(plan, [snapshot("all", fired=1)]) == []
    fed = make_plan(validate_manifest(FED).manifest)
    assert short_of(fed, [snapshot("all")]) == [StarvedAggregator("all", 0, 5, fed=True)]


def test_default_output_without_edges_is_not_counted_as_lost() -> None:
    nodes = [router("spread"), executor("sink", "true"), executor("loud", "true", output_message_type="done")]
    plan = make_plan(validate_manifest(manifest(nodes, [("spread", "sink", "go")])).manifest)
    agents = [snapshot("spread", unrouted=2), snapshot("sink", unrouted=3), snapshot("loud", unrouted=4)]
    assert unrouted_of(plan, agents) == {"spread": 2, "loud": 4}
