"""executor: runs a command for each message, through a runner."""

from __future__ import annotations

from typing import Any

from mirrorneuron.agent import Action, Complete, Emit
from mirrorneuron.bundle.manifest import EXECUTOR_RESULT
from mirrorneuron.bundle.node_config import HOST_LOCAL
from mirrorneuron.job import EventType
from mirrorneuron.message import Message
from workers.agents.draft import USER, DefaultEmit, Draft
from workers.agents.executor_output import UNSET, parse_output, structured_key
from workers.agents.failures import RunFailed
from workers.agents.run_context import Run
from workers.runners.protocol import RunRequest


def handle(draft: Draft, run: Run) -> None:
    """Run the command for the message, and carry out what its output asks for. Raises RunFailed."""
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
            details = {name: sandbox[name] for name in ("sandbox_name", "node_name", "lease")}
            raise RunFailed(result.error, details, transient=result.transient)
        for event in cut:
            draft.record(*event)
        draft.record(EventType.SANDBOX_JOB_COMPLETED, {"exit_code": result.sandbox["exit_code"]})
        if "stdout" in result.cut:
            _reject_truncated(sandbox["stdout"], result.cut["stdout"], run.runtime.settings.max_output_bytes)
        _apply_output(draft, message, sandbox)
    except RunFailed as failure:
        failure.details |= {name: sandbox[name] for name in ("exit_code", "stdout", "stderr")}
        failure.events += cut
        raise


def _reject_truncated(stdout: str, total: int, limit: int) -> None:
    """Raise RunFailed if truncated output is structured output, because it cannot be carried out."""
    if key := structured_key(stdout):
        size = f"{total} bytes exceed MIRROR_NEURON_MAX_OUTPUT_BYTES ({limit})"
        raise RunFailed(f"stdout: contains {key}, but was truncated: {size}; print less or raise the limit")


def _apply_output(draft: Draft, message: Message, sandbox: dict[str, Any]) -> None:
    """Carry out structured output, and the node's own emit and completion."""
    config = draft.node.config
    try:
        output = parse_output(sandbox["stdout"])
    except ValueError as error:
        raise RunFailed(f"stdout: {error}") from None
    body = {"agent_id": draft.node.node_id, "sandbox": sandbox, "input": message.body}
    actions: list[Action] = []
    if output:
        actions += output.actions
        if output.next_state is not UNSET:
            draft.state[USER] = output.next_state
    if "output_message_type" not in config:
        actions.append(DefaultEmit(EXECUTOR_RESULT, body))
    elif config["output_message_type"] is not None:
        actions.append(Emit(config["output_message_type"], body))
    if config.get("complete_job") or (output and output.complete_default):
        actions.append(Complete(body))
    draft.apply(message, actions)
