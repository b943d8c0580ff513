"""Start one command, read its output, and end all of its processes.

`subprocess` starts it by vfork, as long as it is given no `preexec_fn`: 0.63 ms for `true` in a process of 200 MB. A
small helper process that forks and executes on request, over a socket, took 1.24 ms: a fork copies the page tables of
even a small Python, and each request and each end switches processes.
"""

from __future__ import annotations

import functools
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirrorneuron.limits import wait_until_s
from mirrorneuron.processes.by_environment import kill_with
from mirrorneuron.processes.groups import kill_group
from workers.lifecycle.run_handle import RunHandle
from workers.runners.orphan_killer import DEATH_WATCH
from workers.runners.output_capture import Capture
from workers.runners.protocol import Echo
from workers.runners.warm_interpreter import WarmProcess
from workers.runners.warm_python import WarmPythons

PIPE_GRACE_S: Final = 0.5  # for child processes that hold the pipes open after the command has ended
_CHUNK_BYTES: Final = 65_536  # the capacity of a pipe


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    returncode: int  #: -N after signal N
    stdout: Capture
    stderr: Capture
    stopped: str | None  #: why the runner ended the command; None: it ended by itself
    timed_out: bool  #: the reason was the run's own time-out


def run_command(
    words: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stray_mark: str,
    timeout_s: float | None,
    cap_bytes: int,
    handle: RunHandle,
    echo: Echo | None = None,
    warm: WarmPythons | None = None,
) -> Outcome:
    """Run *words* in *folder* until the command ends, *handle* kills it, or *timeout_s* are over.

    The command leads its own session and process group. When the command ends, the rest of its group gets
    `PIPE_GRACE_S` to finish writing and is then killed. If the command was ended by the runner, or the pipes are still
    open, every process that left the group is killed too; it is found by *stray_mark*, an environment entry that only
    this run has. A daemon that a successful command started runs until the worker's next start: searching for daemons
    after each run would cost more than the run. With *warm*, a command of Python runs in a copy of a warm interpreter
    if there is no difference. Raises OSError or ValueError if the command cannot be started.
    """
    # Descriptors are opened first: nothing may fail between the start of the child and its context. The selector is
    # `poll`: `epoll` would need nine more system calls a run for four descriptors.
    with handle.wake_fd() as wake_fd, selectors.PollSelector() as selector:
        process = (warm and warm.start(words, folder, environment)) or subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        child = _Child(process, selector, cap_bytes, echo)
        with child, DEATH_WATCH.guard(process.pid):
            child.listen(wake_fd)
            stopped, timed_out = _follow(child, handle, timeout_s)
            child.drain(PIPE_GRACE_S)
            child.signal(signal.SIGKILL)
            if stopped is not None or child.pipes_open:
                kill_with(stray_mark)
            child.drain(PIPE_GRACE_S)
        return Outcome(process.wait(), child.stdout, child.stderr, stopped, timed_out)


def _follow(child: _Child, handle: RunHandle, timeout_s: float | None) -> tuple[str | None, bool]:
    """Read until the command ends, and end it when due. Return why it was ended, and if it timed out."""
    stopped: str | None = None
    timed_out = False
    due = None if timeout_s is None else time.monotonic() + timeout_s  # the time-out, then the end of the grace
    while not child.ended:
        late = due is not None and time.monotonic() >= due
        if stopped is None and (late or handle.reason is not None):
            timed_out = handle.reason is None
            stopped = handle.reason or f"timed out after {timeout_s:g} s"
            child.signal(signal.SIGTERM)
            due = time.monotonic() + handle.grace_s
        elif late:
            child.signal(signal.SIGKILL)
            due = None
        child.read(due)
    return stopped, timed_out


class _Child:
    """A started command and its pipes. Leaving the context kills the group if the command still runs, and reaps it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes] | WarmProcess,
        selector: selectors.BaseSelector,
        cap_bytes: int,
        echo: Echo | None,
    ) -> None:
        self.stdout, self.stderr = (
            Capture(cap_bytes, functools.partial(echo, name) if echo else None) for name in ("stdout", "stderr")
        )
        self.ended = False
        self.pipes_open = 0
        self._process = process
        self._exit_fd = -1
        self._selector = selector

    def listen(self, wake_fd: int) -> None:
        self._selector.register(wake_fd, selectors.EVENT_READ)
        self._exit_fd = self._process.exit_fd() if isinstance(self._process, WarmProcess) else _exit_fd(self._process)
        self._selector.register(self._exit_fd, selectors.EVENT_READ)
        for stream, capture in ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr)):
            assert stream is not None
            self._selector.register(stream.fileno(), selectors.EVENT_READ, capture)
            self.pipes_open += 1

    def read(self, due: float | None) -> None:
        """Read available output, waiting for it until *due*. May return early; the caller loops until *due*."""
        for key, _ in self._selector.select(wait_until_s(due)):
            if key.data is None:  # the command has ended, or `kill` was called and has set `reason`
                self.ended = self.ended or key.fd == self._exit_fd
                self._selector.unregister(key.fd)
            elif chunk := os.read(key.fd, _CHUNK_BYTES):
                key.data.add(chunk)
            else:
                self.pipes_open -= 1
                self._selector.unregister(key.fd)

    def drain(self, limit_s: float) -> None:
        """Read until all processes have closed the pipes, for at most *limit_s*."""
        due = time.monotonic() + limit_s
        while self.pipes_open and time.monotonic() < due:
            self.read(due)

    def signal(self, number: signal.Signals) -> None:
        """Signal the process group. Its id cannot have been reused: the command is reaped when its context ends."""
        kill_group(self._process.pid, number)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:  # an exception: a soft time limit, Ctrl-C, no descriptors left
            self.signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._exit_fd >= 0:
            os.close(self._exit_fd)


def _exit_fd(process: subprocess.Popen[bytes]) -> int:
    """Return a descriptor that is readable once *process* has ended: a pidfd, else a pipe closed by a thread."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        readable, writable = os.pipe()

        def wait() -> None:
            process.wait()
            os.close(writable)

        threading.Thread(target=wait, name=f"wait-{process.pid}", daemon=True).start()
        return readable
