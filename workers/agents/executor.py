"""executor: answers a message by running a command through a runner."""

from __future__ import annotations

from typing import Any

from mirrorneuron.agent import Action, Complete, Emit
from mirrorneuron.bundle.manifest import EXECUTOR_RESULT
from mirrorneuron.bundle.node_config import HOST_LOCAL
from mirrorneuron.job import EventType
from mirrorneuron.message import Message
from workers.agents.draft import USER, DefaultEmit, Draft, RunFailed
from workers.agents.executor_output import UNSET, asks_for, parse_output
from workers.agents.run_context import Run
from workers.runners import RunRequest


def handle(draft: Draft, run: Run) -> None:
    """Run the command on the draft's message. Raises RunFailed."""
    config, message = draft.node.config, run.message
    runner = run.runtime.runner(config.get("runner_module", HOST_LOCAL))
    result = runner.run(
        RunRequest(
            job_id=run.job.job_id,
            agent_id=draft.node.node_id,
            agent_type=draft.node.agent_type,
            template=draft.node.template,
            config=config,
            message=message,
            agent_state=draft.state.get(USER, {}),
            payloads_path=run.payloads_path,
            node_name=run.runtime.name,
            echo=run.echo,
        ),
        run.handle,
    )
    sandbox: dict[str, Any] = {**result.sandbox, "attempts": run.attempt, "lease": run.lease}
    cut = [(EventType.SANDBOX_OUTPUT_CUT, {"streams": list(result.cut)})] if result.cut else []
    try:
        if result.error:
            details = {name: sandbox[name] for name in ("sandbox_name", "lease")}
            raise RunFailed(result.error, details, transient=result.transient)
        for event in cut:
            draft.record(*event)
        draft.record(EventType.SANDBOX_JOB_COMPLETED, {"exit_code": result.sandbox["exit_code"]})
        if "stdout" in result.cut:
            _refuse_cut(sandbox["stdout"], result.cut["stdout"], run.runtime.settings.max_output_bytes)
        _answer(draft, message, sandbox)
    except RunFailed as failure:
        failure.details |= {name: sandbox[name] for name in ("exit_code", "stdout", "stderr")}
        failure.events += cut
        raise


def _refuse_cut(stdout: str, total: int, cap: int) -> None:
    """Raise RunFailed when what was cut is structured output: nothing of it can be carried out."""
    if key := asks_for(stdout):
        raise RunFailed(
            f"stdout: holds {key}, but was cut: it has {total} bytes, MIRROR_NEURON_MAX_OUTPUT_BYTES is {cap}"
        )


def _answer(draft: Draft, message: Message, sandbox: dict[str, Any]) -> None:
    config = draft.node.config
    try:
        asked = parse_output(sandbox["stdout"])
    except ValueError as error:
        raise RunFailed(f"stdout: {error}") from None
    body = {"agent_id": draft.node.node_id, "sandbox": sandbox, "input": message.body}
    actions: list[Action] = []
    if asked:
        actions += asked.actions
        if asked.next_state is not UNSET:
            draft.state[USER] = asked.next_state
    if "output_message_type" not in config:
        actions.append(DefaultEmit(EXECUTOR_RESULT, body))
    elif config["output_message_type"] is not None:
        actions.append(Emit(config["output_message_type"], body))
    if config.get("complete_job") or (asked and asked.complete_default):
        actions.append(Complete(body))
    draft.apply(message, actions)
