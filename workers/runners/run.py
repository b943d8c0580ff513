"""What a runner is given, what it answers with, and the handle by which a run is ended from outside."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypedDict

from mirrorneuron.message import Message

GRACE_S: Final = 0.5  # between asking a command to end (TERM) and ending it (KILL)


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


class RunHandle:
    """Ends a run from another thread. One handle serves one run, or the attempts at it one after the other."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.grace_s = grace_s
        self.reason: str | None = None  #: set by the first `kill`, for good
        self.given_back = False  #: the run is not to blame: somebody else shall do it again
        # Re-entrant, because `kill` may be called by a signal handler on top of the methods below.
        self._lock = threading.RLock()
        self._wake_fd: int | None = None

    def kill(self, reason: str) -> None:
        """End the run: TERM to its process group, KILL after the grace. Returns at once.

        Before the command exists, it is not started any more; after its end nothing happens. The first reason stays.
        """
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            if self._wake_fd is not None:
                os.write(self._wake_fd, b"\0")

    def give_back(self, reason: str) -> None:
        """End the run as `kill` does, without counting it: its agent is given back as it was claimed."""
        with self._lock:
            if self.reason is None:
                self.given_back = True
                self.kill(reason)

    @contextmanager
    def wake_fd(self) -> Iterator[int]:
        """A descriptor that becomes readable when `kill` is called. The signals are sent by whoever waits for it:
        one thread alone starts, signals and reaps, so no signal can hit a process id that was given away again.
        """
        readable, writable = os.pipe()
        with self._lock:
            self._wake_fd = writable
        try:
            yield readable
        finally:
            with self._lock:
                self._wake_fd = None
            os.close(writable)
            os.close(readable)


class Runner(Protocol):
    def run(self, request: RunRequest, handle: RunHandle) -> RunResult:
        """Run the command of *request* to its end. Blocks; what goes wrong is in `error`, not raised."""
        ...
