"""The pool of warm child processes for module agents, each running the Python code of one bundle.

`ModulePool.run` sends one message to a child (`workers/modules/module_child.py`) and reads the new state and the
actions. The answer of a child is not trusted: size, JSON and types are checked, and a child that breaks the protocol is
killed.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from mirrorneuron.agent import Action, Complete, Emit, Record
from mirrorneuron.message import Message, check_emit_fields, decode, encode
from mirrorneuron.text import signal_name
from workers.disk.work_folder import remove_abandoned
from workers.lifecycle.run_handle import RunHandle, capped_s, limit_note
from workers.lifecycle.shortage import shortage_of
from workers.lifecycle.threads import started
from workers.modules.module_child import CHANNEL_LOST
from workers.modules.module_process import ModuleProcess, ProtocolBroken

MIB: Final = 1024 * 1024
#: called with job and agent; yields the function that takes a stream's name and its output
LateOutput: TypeAlias = Callable[[str, str], AbstractContextManager[Callable[[str, bytes], None]]]

_START_S: Final = 60.0  # a loaded machine may need seconds; a child that needs a minute will never be ready
_LINGER_S: Final = 60.0  # a child exits by itself this long after the pool would have stopped using it
_LATE_EVERY_S: Final = 0.5
_INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class ModuleRequest:
    """One message for one module agent."""

    bundle_digest: str
    payloads_path: Path | None  #: the bundle's unpacked `payloads/` on this node
    job_id: str
    agent_id: str
    config: Mapping[str, Any]  #: the node's `config`; `module`, `module_source` and `timeout_seconds` are read here
    message: Message  #: for the template `batch` its body is the list of bodies
    state: dict[str, Any]
    echo: Callable[[str, bytes], None] | None = None  #: called with the output as it comes: stream, bytes
    max_seconds: int = 0  #: the longest run that the node allows; 0 is no limit


@dataclass(frozen=True, slots=True)
class ModuleResult:
    """The result for one message. After a failure, the state is that of the request and there are no actions."""

    state: dict[str, Any]
    actions: list[Action]
    error: str | None  #: None is success
    details: dict[str, Any]  #: `traceback`, `exit_code` or `signal` of a failure; `stderr`: the end of all it printed
    transient: bool = False  #: a retry may succeed: timed out, killed, the child died
    permanent: bool = False  #: a retry cannot succeed: the module did something invalid
    shortage: str = ""  #: what the node lacked to run the module, see `workers.lifecycle.shortage`


class ModulePool:
    """Keeps children warm, by bundle: at most *max_children*, unless more are busy at the same time.

    Thread-safe: a child handles one message at a time; a second message for the same bundle gets another child.
    Fork-safe: a forked process starts without children and does not touch its parent's. *environment* is added to the
    children's environment. *work_root* holds one empty working folder for each child, removed with the child: agents
    must not write into the bundle's folder, which is a cache. Folders that killed workers left there are removed at the
    start. *late_output* takes what a module's threads print after its message.
    """

    def __init__(
        self,
        *,
        max_children: int = 8,
        idle_s: float = 600.0,
        max_answer_bytes: int = 64 * MIB,
        work_root: Path | None = None,
        environment: Mapping[str, str] | None = None,
        late_output: LateOutput | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_children = max_children
        self._idle_s = idle_s
        self._max_answer_bytes = max_answer_bytes
        self._work_root = work_root
        self._environment = dict(environment or {})
        self._late_output = late_output
        self._clock = clock
        self._reset()
        _POOLS.add(self)
        if work_root is not None:
            remove_abandoned(work_root)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[ModuleProcess] = []  #: least recently used first
        self._busy: set[ModuleProcess] = set()
        # Linux kills a child when the *thread* that started it ends. So one thread, which exists as long as the pool,
        # starts all children.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="module-starter")
        self._listener: threading.Thread | None = None
        self._closing = threading.Event()

    def run(self, request: ModuleRequest, handle: RunHandle) -> ModuleResult:
        """Let the bundle's class handle the message. Blocks. A failure is in `error`, not raised."""
        try:
            question = _question(request)
        except ValueError as error:
            return _failed(request, f"the message cannot be sent to the module: {error}")
        try:
            child = self._take(request.bundle_digest)
        except (
            OSError,
            RuntimeError,
        ) as error:  # out of processes, descriptors or memory, or the interpreter shuts down
            failed = _failed(request, f"cannot start a child process: {error}", transient=True)
            return replace(failed, shortage=shortage_of(error))
        keep = False
        try:
            self._report(child.last_run, child.late_output())
            child.last_run = request.job_id, request.agent_id
            result, keep = _ask(child, request, question, handle)
        finally:  # after an exception (soft time limit, Ctrl-C) the child may still be busy, and is not kept
            self._give_back(child, keep)
        return result

    def close(self) -> None:
        """End all idle children now, and each busy one after its message. The pool can be used again."""
        with self._lock:
            ended, self._idle = self._idle, []
            self._busy.clear()  # a child that is not in this set is not kept
            self._closing.set()
            self._listener, self._closing = None, threading.Event()
        for child in ended:
            child.end()

    def forget(self) -> None:
        """In a forked process: forget the parent's children without ending them."""
        for child in [*self._idle, *self._busy]:
            child.disown()
        self._reset()  # the lock too: a thread of the parent may hold it

    def _take(self, digest: str) -> ModuleProcess:
        """Reserve a child for the bundle, a warm one if possible, until it is given back. Raises OSError."""
        with self._lock:
            now = self._clock()
            usable = [child for child in self._idle if now - child.used_at < self._idle_s and child.is_well()]
            ended = [child for child in self._idle if child not in usable]
            found = next((child for child in reversed(usable) if child.digest == digest), None)
            if found is not None:
                usable.remove(found)
                self._busy.add(found)
            else:
                ended += self._surplus(usable, 1)
            self._idle = usable
        for child in ended:
            child.end()
        return found or self._start(digest)

    def _start(self, digest: str) -> ModuleProcess:
        environment = _inherited() | self._environment
        lifetime_s = self._idle_s + _LINGER_S
        start = self._starter.submit(
            ModuleProcess, digest, environment, self._work_root, lifetime_s, self._max_answer_bytes
        )
        child = start.result()
        with self._lock:
            self._busy.add(child)
        return child

    def _give_back(self, child: ModuleProcess, keep: bool) -> None:
        with self._lock:
            ended = [] if keep and child in self._busy else [child]
            self._busy.discard(child)
            if not ended:
                child.used_at = self._clock()
                self._idle.append(child)
                ended = self._surplus(self._idle, 0)
                self._listen()
        for child in ended:
            child.end()

    def _listen(self) -> None:
        """Start the thread that reads what threads of idle children print."""
        if self._listener is None and self._late_output is not None:
            with suppress(RuntimeError):  # the OS refuses a thread; the output is read before the next message
                self._listener = started("module output", partial(self._read_idle, self._closing))

    def _read_idle(self, closing: threading.Event) -> None:
        while not closing.wait(_LATE_EVERY_S):
            with self._lock:
                found = [(child.last_run, child.late_output()) for child in self._idle]
            for last_run, printed in found:
                self._report(last_run, printed)

    def _report(self, last_run: tuple[str, str] | None, printed: list[tuple[str, bytes]]) -> None:
        """Log what was printed after a message, as output of the agent that handled it."""
        if printed and last_run is not None and self._late_output is not None:
            with self._late_output(*last_run) as echo:
                for stream, chunk in printed:
                    echo(stream, chunk)

    def _surplus(self, idle: list[ModuleProcess], needed: int) -> list[ModuleProcess]:
        """Remove from *idle*, and return, the least recently used children that leave no room for *needed* more."""
        count = max(0, len(idle) + len(self._busy) + needed - self._max_children)
        surplus = idle[:count]
        del idle[:count]
        return surplus


_POOLS: Final[weakref.WeakSet[ModulePool]] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in _POOLS:
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)


def _inherited() -> dict[str, str]:
    """The variables that children inherit. They run in another folder, so PYTHONPATH is made absolute."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    if paths := os.environ.get("PYTHONPATH"):
        inherited["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep))
    return inherited


def _question(request: ModuleRequest) -> bytes:
    """The question to the child, as JSON. Raises ValueError if JSON cannot represent it."""
    payloads = request.payloads_path
    return encode(
        {
            "job_id": request.job_id,
            "agent_id": request.agent_id,
            "payloads_path": str(payloads) if payloads is not None else None,
            "config": dict(request.config),
            "message": request.message.as_dict(),
            "state": request.state,
        }
    )


def _ask(child: ModuleProcess, request: ModuleRequest, question: bytes, handle: RunHandle) -> tuple[ModuleResult, bool]:
    """Send one question to *child*; return the result, and whether the child can be kept."""
    if handle.reason is not None:
        return _failed(request, f"killed: {handle.reason}", transient=True), True
    timeout_s = capped_s(_timeout_of(request.config), request.max_seconds)
    try:
        with handle.wake_fd() as wake_fd:
            child.start_up(_START_S, handle, wake_fd)
            answer = child.exchange(question, timeout_s, handle, wake_fd, request.echo)
        return _result(request, answer, child), True
    except TimeoutError:
        limit = limit_note(_timeout_of(request.config), request.max_seconds)
        error = (
            f"timed out after {timeout_s:g} s{limit}"
            if child.is_ready
            else f"child did not start within {_START_S:g} s"
        )
    except InterruptedError:
        error = f"killed: {handle.reason}"
    except EOFError:
        return _death(request, child), False
    except ProtocolBroken as broken:
        child.kill()
        return _failed(request, str(broken), child.printed()), False
    except OSError as problem:  # no descriptors left, for example
        child.kill()
        failed = _failed(request, f"lost the child process: {problem}", child.printed(), transient=True)
        return replace(failed, shortage=shortage_of(problem)), False
    child.kill()
    return _failed(request, error, child.printed(), transient=True), False


def _timeout_of(config: Mapping[str, Any]) -> float | None:
    seconds = config.get("timeout_seconds")
    return float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None


def _result(request: ModuleRequest, answer: bytes, child: ModuleProcess) -> ModuleResult:
    """Check and read an untrusted answer. Raises ProtocolBroken."""
    try:
        match decode(answer):
            case {"state": dict(state), "actions": list(packed)}:
                return ModuleResult(state, [_action(item) for item in packed], None, child.printed())
            case {"error": str(error), "traceback": str(trace), "permanent": bool(permanent)} if error:
                details = {"traceback": trace} if trace else {}
                if request.echo is not None:  # after all output of the run, like an uncaught exception of a script
                    request.echo("stderr", f"{(trace or error).rstrip()}\n".encode(errors="replace"))
                return _failed(request, error, details | child.printed(), permanent=permanent)
    except ValueError as error:
        raise ProtocolBroken(f"the module's answer cannot be read: {error}") from None
    raise ProtocolBroken("the module's answer is neither a result nor an error")


def _action(item: object) -> Action:
    match item:
        case ["emit", str(type), body, str() | None as to, dict(fields)] if type:
            check_emit_fields(fields)
            return Emit(type, body, to, fields)
        case ["event", str(type), payload] if type:
            return Record(type, payload)
        case ["complete", output]:
            return Complete(output)
    raise ValueError(f"{item!r:.80} is not a valid action")


def _death(request: ModuleRequest, child: ModuleProcess) -> ModuleResult:
    """The result for a child whose socket has closed."""
    by_itself = child.ends_by_itself()
    status = child.kill()
    details: dict[str, Any]
    if not by_itself or status == CHANNEL_LOST:
        error, details = "the module closed the connection to its node", {}
    elif status < 0:
        name = signal_name(-status)
        error, details = f"child was killed by signal {name}", {"signal": name}
    else:
        error, details = f"child ended with exit code {status}", {"exit_code": status}
    return _failed(request, error, details | child.printed(), transient=True)


def _failed(
    request: ModuleRequest,
    error: str,
    details: Mapping[str, Any] | None = None,
    *,
    transient: bool = False,
    permanent: bool = False,
) -> ModuleResult:
    return ModuleResult(request.state, [], error, dict(details or {}), transient, permanent)
