"""What a runner is given, and what it answers with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypedDict

from mirrorneuron.message import Message
from workers.lifecycle.run_handle import RunHandle

Echo: TypeAlias = Callable[[str, bytes], None]  #: takes a stream's name, and what has just come on it


class RunRefused(ValueError):
    """A run cannot begin because of what its manifest or message says; the message is one line that says where."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run of one agent's command."""

    job_id: str
    agent_id: str
    agent_type: str
    template: str
    config: Mapping[str, Any]  #: the node's `config` from the manifest
    message: Message  #: for the template `batch` its body is the list of bodies
    agent_state: Any  #: the `next_state` of the agent's last run, {} at first
    payloads_path: Path | None  #: the bundle's unpacked `payloads/` on this node
    node_name: str
    echo: Echo | None = None  #: told of the output as it comes


class SandboxResult(TypedDict):
    """What a run leaves behind; `sandbox` in the body that an executor emits."""

    sandbox_name: str
    remote_dir: str  #: where the command ran; gone by now
    exit_code: int  #: the command's; 128 + N after signal N, 127 and 126 as a shell has it, 125 when nothing was run
    runner_exit_code: int  #: the same here: between this runner and the command stands no second program
    stdout: str
    stderr: str
    logs: str  #: stdout, then stderr
    raw_output: str  #: always empty, it would double stdout
    runner: str
    node_name: str


@dataclass(frozen=True, slots=True)
class RunResult:
    sandbox: SandboxResult
    error: str | None  #: None is success
    cut: Mapping[str, int] = field(default_factory=dict)  #: of stdout and stderr those over the cap: bytes in all
    transient: bool = False  #: may go well when tried again: timed out, killed, short of resources, exit code 75


class Runner(Protocol):
    def run(self, request: RunRequest, handle: RunHandle) -> RunResult:
        """Run the command of *request* to its end. Blocks; what goes wrong is in `error`, not raised."""
        ...
