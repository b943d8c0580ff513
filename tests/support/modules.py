"""Bundles whose module agents are written by the test, and helpers to run them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirrorneuron.agent import Complete
from mirrorneuron.message import Message, seed
from workers.lifecycle.run_handle import RunHandle
from workers.modules.pool import ModulePool, ModuleRequest, ModuleResult

HEAD = "from mirrorneuron.agent import Agent\n"
ROOT = Path(__file__).parents[2]

#: emits the pid of its module process for each message
WHO = """
    import os
    class It(Agent):
        def handle(self, message, context):
            context.complete_job(os.getpid())
"""


Handle = Callable[..., ModuleResult]


class Bundle:
    """A bundle whose module agents are written by the test."""

    def __init__(self, payloads: Path, digest: str = "d1") -> None:
        self.payloads = payloads
        self.digest = digest
        payloads.mkdir(exist_ok=True)

    def write(self, name: str, source: str) -> Bundle:
        path = self.payloads / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + textwrap.dedent(source))
        return self

    def request(self, body: Any = None, *, state: dict[str, Any] | None = None, **config: Any) -> ModuleRequest:
        message = seed({"body": body}, job_id="job", to="a", message_id="m1", timestamp="2026-01-31T12:00:00.000Z")
        parts = (message[name] for name in ("envelope", "body", "headers", "artifacts", "stream"))
        settings = {"module": "agent:It", **config}
        return ModuleRequest(self.digest, self.payloads, "job", "a", settings, Message(*parts), state or {})

    def run(self, pool: ModulePool, body: Any = None, **more: Any) -> ModuleResult:
        return pool.run(self.request(body, **more), RunHandle())


def pid_of(pool: ModulePool, bundle: Bundle, **config: Any) -> int:
    result = bundle.run(pool, **config)
    assert result.error is None, result
    return output_of(result)


def output_of(result: ModuleResult) -> Any:
    (action,) = result.actions
    assert isinstance(action, Complete), result
    return action.output


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
