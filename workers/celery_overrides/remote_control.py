"""Remote control commands that would break an invariant of the runtime are refused, with the reason as their reply.

Whoever reaches the broker can send them: Flower, `celery control`, a program of somebody else. Inspection stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from celery.worker import control

_JOBS: Final = "a task is only a wake-up call, and its job goes on: use `mn pause JOB` or `mn cancel JOB`"
_SLOTS: Final = "a worker has a process for each slot: set MIRROR_NEURON_EXECUTOR_POOL_CAPACITIES and restart the node"
_QUEUES: Final = "the queues of a worker are those of its pools: start another node with `mn worker --pool NAME`"
_NODE: Final = "a node is stopped where it was started: send SIGTERM to `mn worker`"
_DEBUGGING: Final = "it reads or copies the memory of a node"

#: Command -> why it is refused.
REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("revoke", "revoke_by_stamped_headers", "terminate", "rate_limit", "time_limit"), _JOBS),
    **dict.fromkeys(("pool_grow", "pool_shrink", "pool_restart", "autoscale"), _SLOTS),
    **dict.fromkeys(("add_consumer", "cancel_consumer"), _QUEUES),
    **dict.fromkeys(("shutdown", "election"), _NODE),
    **dict.fromkeys(("objgraph", "memsample", "memdump"), _DEBUGGING),
}


def refuse_commands() -> None:
    """Replace the commands of this process's worker that are REFUSED. Takes effect for workers that start later."""
    for name, reason in REFUSED.items():
        control.Panel.data[name] = _refusal(name, reason)
    hello = control.Panel.data["hello"]

    def hello_only(state: Any, from_node: str, **_: Any) -> Any:
        """Greet a worker that starts, but do not take over its list of revoked tasks."""
        return hello(state, from_node)

    control.Panel.data["hello"] = hello_only


def _refusal(name: str, reason: str) -> Callable[..., dict[str, str]]:
    def refused(_state: Any, **_arguments: Any) -> dict[str, str]:
        return control.nok(f"{name} is refused: {reason}")  # type: ignore[no-any-return]

    return refused
