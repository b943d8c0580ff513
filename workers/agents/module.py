"""module: handles a message with a Python class of the bundle, in a child process."""

from __future__ import annotations

from workers.agents.draft import USER, Draft, record_received
from workers.agents.failures import RunFailed
from workers.agents.run_context import Run
from workers.lifecycle.shortage import NodeShortage
from workers.modules.pool import ModuleRequest


def handle(draft: Draft, run: Run) -> None:
    """Call the module with the message, and carry out the actions that it returns. Raises RunFailed."""
    record_received(draft, draft.messages)
    result = run.runtime.modules.run(
        ModuleRequest(
            bundle_digest=run.job.digest,
            payloads_path=run.payloads_path,
            job_id=run.job.job_id,
            agent_id=draft.node.node_id,
            config=draft.node.config,
            message=run.message,
            state=draft.state.get(USER, {}),
            echo=run.echo,
            max_seconds=run.runtime.settings.max_run_seconds,
        ),
        run.handle,
    )
    if result.shortage:
        raise NodeShortage(result.shortage)
    if result.error:
        raise RunFailed(result.error, result.details, transient=result.transient, permanent=result.permanent)
    if result.state or USER in draft.state:
        draft.state[USER] = result.state
    draft.apply(run.message, result.actions)
