"""The request to a runner, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypedDict

from mirrorneuron.message import Message
from workers.lifecycle.run_handle import RunHandle

Echo: TypeAlias = Callable[[str, bytes], None]  #: called with a stream's name and new output


class RunRefused(ValueError):
    """The manifest or message does not allow the run to start; the text is one line that names the key."""


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
    echo: Echo | None = None  #: called with the output as it comes


class SandboxResult(TypedDict):
    """The outcome of a command; `sandbox` in the body that an executor emits."""

    sandbox_name: str
    remote_dir: str  #: the folder in which the command ran; already removed
    exit_code: int  #: of the command; 128 + N after signal N, 127 and 126 as in a shell, 125 if nothing was run
    runner_exit_code: int  #: equal to exit_code: this runner has no program of its own around the command
    stdout: str
    stderr: str
    logs: str  #: stdout, then stderr
    raw_output: str  #: always empty: it would repeat stdout
    runner: str
    node_name: str


@dataclass(frozen=True, slots=True)
class RunResult:
    sandbox: SandboxResult
    error: str | None  #: None is success
    cut: Mapping[str, int] = field(default_factory=dict)  #: stream -> all its bytes, for streams longer than the cap
    transient: bool = False  #: a retry may succeed: timed out, killed, out of resources, exit code 75
    answer: bytes | None = None  #: content of the answer file; None if the command wrote none
    printed_key: str = ""  #: the last answer key on stdout, if stdout is cut
    is_utf8: bool = True  #: stdout, of which other bytes are replaced
    shortage: str = ""  #: what the node lacked to run the command, see `workers.lifecycle.shortage`


class Runner(Protocol):
    def run(self, request: RunRequest, handle: RunHandle) -> RunResult:
        """Run the command of *request* to its end. Blocks. A failure is in `error`, not raised."""
        ...
