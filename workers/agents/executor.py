"""executor: runs a command for each message, through a runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mirrorneuron.agent import Action, Complete, Emit
from mirrorneuron.bundle.manifest import EXECUTOR_RESULT
from mirrorneuron.bundle.node_config import HOST_LOCAL
from mirrorneuron.job import EventType
from mirrorneuron.message import Message, decode
from workers.agents.draft import USER, DefaultEmit, Draft
from workers.agents.executor_output import UNSET, Answer, parse_answer
from workers.agents.failures import RunFailed
from workers.agents.run_context import Run
from workers.lifecycle.shortage import NodeShortage
from workers.runners.answer import ANSWER_FILE, KEYS, decode_file, find_answer
from workers.runners.output_capture import whole_lines_of_tail
from workers.runners.protocol import RunRequest, RunResult


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
    if result.shortage:
        raise NodeShortage(result.shortage)
    sandbox: dict[str, Any] = {**result.sandbox, "attempts": run.attempt, "lease": run.lease}
    cut = [(EventType.SANDBOX_OUTPUT_CUT, {"streams": list(result.cut)})] if result.cut else []
    try:
        if result.error:
            details = {name: sandbox[name] for name in ("sandbox_name", "node_name", "lease")}
            raise RunFailed(result.error, details, transient=result.transient)
        for event in cut:
            draft.record(*event)
        draft.record(EventType.SANDBOX_JOB_COMPLETED, {"exit_code": result.sandbox["exit_code"]})
        limit = run.runtime.settings.max_output_bytes if result.cut else 0
        _apply(draft, message, sandbox, _answer_of(result, limit))
    except RunFailed as failure:
        failure.details |= {name: sandbox[name] for name in ("exit_code", "stdout", "stderr")}
        failure.events += cut
        raise


def _answer_of(result: RunResult, limit: int) -> Answer | None:
    """The answer in the file, else on stdout; None if there is none. *limit*: bytes kept of a stream that is cut.

    Raises RunFailed for an answer that cannot be carried out. On stderr, an object of nothing but answer keys is a
    mistake; any other object may be a line of a log.
    """
    if result.answer is not None:
        return _parsed(ANSWER_FILE, lambda: decode_file(result.answer or b""))
    stdout = result.sandbox["stdout"]
    answer = _parsed("stdout", lambda: _answer_on_stdout(result, stdout, limit))
    if answer is None and (text := _strict_answer(result.sandbox["stderr"])) and set(decode(text)) <= set(KEYS):
        advice = f"print it to stdout, or write it to the file that {ANSWER_FILE} names"
        raise RunFailed(f"stderr: contains an answer, which is not read there; {advice}")
    return answer


def _answer_on_stdout(result: RunResult, stdout: str, limit: int) -> str | None:
    """The text of the answer on stdout. Raises ValueError for one that cannot be used."""
    if "stdout" not in result.cut:
        text = find_answer(stdout)
    else:
        text = _strict_answer(whole_lines_of_tail(stdout))
        if text is None and result.printed_key:
            size = f"{result.cut['stdout']} bytes exceed MIRROR_NEURON_MAX_OUTPUT_BYTES ({limit})"
            raise ValueError(f"contains {result.printed_key}, but was truncated: {size}; print less or raise the limit")
    if text is not None and not result.is_utf8 and "\ufffd" in text:
        raise ValueError("contains an answer that is not UTF-8; print it in UTF-8, or with ASCII characters only")
    return text


def _strict_answer(text: str) -> str | None:
    try:
        return find_answer(text, strict=True)
    except ValueError:
        return None


def _parsed(source: str, read: Callable[[], str | None]) -> Answer | None:
    try:
        text = read()
        return None if text is None else parse_answer(text)
    except ValueError as error:
        raise RunFailed(f"{source}: {error}") from None


def _apply(draft: Draft, message: Message, sandbox: dict[str, Any], answer: Answer | None) -> None:
    """Carry out the answer, and the node's own emit and completion."""
    config = draft.node.config
    body = {"agent_id": draft.node.node_id, "sandbox": sandbox, "input": message.body}
    actions: list[Action] = []
    if answer:
        actions += answer.actions
        if answer.next_state is not UNSET:
            draft.state[USER] = answer.next_state
    if "output_message_type" not in config:
        actions.append(DefaultEmit(EXECUTOR_RESULT, body))
    elif config["output_message_type"] is not None:
        actions.append(Emit(config["output_message_type"], body))
    if config.get("complete_job") or (answer and answer.complete_default):
        actions.append(Complete(body))
    draft.apply(message, actions)
