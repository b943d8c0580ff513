"""One child process of a module agent's bundle: its socket for questions, the pipes for its output, its end."""

from __future__ import annotations

import math
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from mirrorneuron.processes.groups import kill_group
from workers.disk.work_folder import HeldFolder
from workers.lifecycle.run_handle import RunHandle
from workers.modules.module_child import HEADER, NAME

OUTPUT_KEPT_BYTES: Final = 64 * 1024  #: of the output of a module while it handles one message

_GRACE_S: Final = (
    1.0  # after its socket has closed, a child may take this long to exit, so that its exit status is known
)
_LONGEST_WAIT_S: Final = 3600.0  # `poll` takes a C int of milliseconds
_CHUNK: Final = 256 * 1024
# The child imports its main program without the package `workers`. The folder of the packages goes last on its import
# path (when installed, it is there already), so nothing in that folder hides an installed module.
_BOOT: Final = f"import sys; sys.path += sys.argv[4:]; from {NAME} import main; main()"
_HERE: Final = Path(__file__).resolve().parent
# Unbuffered, so that no output before a crash is lost. faulthandler prints the Python stack of a segmentation fault.
_PYTHON: Final = (sys.executable, "-P", "-u", "-X", "utf8", "-X", "faulthandler", "-c", _BOOT)


class ProtocolBroken(Exception):
    """The child's answer violates the protocol."""


@dataclass(slots=True)
class _Exchange:
    """One question being sent, and the part of the answer received so far."""

    number: int
    outgoing: memoryview
    incoming: bytearray = field(default_factory=bytearray)

    def answer(self, cap_bytes: int) -> bytes | None:
        """Return the complete answer, or None while it is incomplete. Raises ProtocolBroken."""
        if len(self.incoming) < HEADER.size:
            return None
        size, number = HEADER.unpack_from(self.incoming)
        if size > cap_bytes:
            raise ProtocolBroken(
                f"the module's state and messages are {size} bytes of JSON, more than the cap of {cap_bytes}"
            )
        whole = HEADER.size + size
        if len(self.incoming) < whole:
            return None
        if number != self.number or len(self.incoming) > whole or self.outgoing:
            raise ProtocolBroken("the module wrote to the connection to its node")
        return bytes(memoryview(self.incoming)[HEADER.size :])


class ModuleProcess:
    """One child process: the socket for questions, the pipes for its output, its folder and its end.

    Not thread-safe: only the thread that took the child from the pool uses it, ends it and reaps it.
    """

    def __init__(
        self, digest: str, environment: Mapping[str, str], root: Path | None, lifetime_s: float, cap_bytes: int
    ) -> None:
        self.digest = digest
        self.used_at = 0.0  #: by the pool's clock
        self.is_ready = False
        self.last_run: tuple[str, str] | None = None  #: job and agent of the last message
        self._cap_bytes = cap_bytes
        self._asked = -1  #: number of the last question; 0 is the wait until the child is ready
        self._killed = False
        self._printed = {"stderr": bytearray(), "stdout": bytearray()}
        self._echo: Callable[[str, bytes], None] | None = None
        self._folder = HeldFolder(root, "mn-module")
        try:
            self._start(environment, lifetime_s)
        except BaseException:
            self._folder.remove()
            raise
        self._watch()

    def _start(self, environment: Mapping[str, str], lifetime_s: float) -> None:
        self._socket, theirs = socket.socketpair()
        words = [str(os.getpid()), str(theirs.fileno()), str(lifetime_s), str(_HERE.parents[1]), str(_HERE)]
        try:
            self._process = subprocess.Popen(
                [*_PYTHON, *words],
                cwd=self._folder.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def _watch(self) -> None:
        self._socket.setblocking(False)
        self._outputs: dict[int, tuple[str, IO[bytes]]] = {}
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._outputs[pipe.fileno()] = name, pipe
        self._exit_fd = -1
        with suppress(AttributeError, OSError):  # no pidfd: the closing of the socket shows the child's end
            self._exit_fd = os.pidfd_open(self._process.pid)
        self._poll = select.poll()
        for fd in (self._socket.fileno(), *self._outputs, self._exit_fd):
            if fd >= 0:
                self._poll.register(fd, select.POLLIN)

    def start_up(self, timeout_s: float, handle: RunHandle, wake_fd: int) -> None:
        """Wait until a new child is ready. Raises what `exchange` raises."""
        if not self.is_ready:
            self.exchange(b"", timeout_s, handle, wake_fd)
            self.is_ready = True

    def is_well(self) -> bool:
        """True if the child runs and has sent nothing, as an idle child must. Its printed output does not count."""
        return not any(fd not in self._outputs for fd, _ in self._poll.poll(0))

    def late_output(self) -> list[tuple[str, bytes]]:
        """What the child has printed since its last message: chunks of its streams. For a child that is not busy."""
        chunks: list[tuple[str, bytes]] = []
        self._echo = lambda stream, chunk: chunks.append((stream, chunk))
        self._read_rest()
        return chunks

    def exchange(
        self,
        question: bytes,
        timeout_s: float | None,
        handle: RunHandle,
        wake_fd: int,
        echo: Callable[[str, bytes], None] | None = None,
    ) -> bytes:
        """Send a question (`start_up`: none) and return the answer.

        *echo* is called with what the child prints meanwhile.
        Raises TimeoutError; InterruptedError if *handle* is killed; EOFError if the child has ended; ProtocolBroken.
        """
        self._asked += 1
        for kept in self._printed.values():
            kept.clear()
        self._echo = echo
        frame = HEADER.pack(len(question), self._asked) + question if self._asked else b""
        going = _Exchange(self._asked, memoryview(frame))
        due = None if timeout_s is None else time.monotonic() + timeout_s
        self._poll.register(wake_fd, select.POLLIN)
        try:
            while handle.look() is None:
                self._write(going)
                events = self._wait(due, handle.alarm_s)
                answer = self._read(going, events)
                if answer is not None:
                    self._read_rest()
                    return answer
            raise InterruptedError
        finally:
            self._poll.unregister(wake_fd)

    def _wait(self, due: float | None, most_s: float) -> dict[int, int]:
        left_s = _LONGEST_WAIT_S if due is None else due - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return dict(self._poll.poll(math.ceil(max(0.0, min(left_s, most_s, _LONGEST_WAIT_S)) * 1000)))

    def _write(self, going: _Exchange) -> None:
        with suppress(BlockingIOError):
            while going.outgoing:
                try:
                    going.outgoing = going.outgoing[self._socket.send(going.outgoing) :]
                except (BrokenPipeError, ConnectionResetError):
                    raise EOFError from None
        self._poll.modify(self._socket, select.POLLIN | (select.POLLOUT if going.outgoing else 0))

    def _read(self, going: _Exchange, events: Mapping[int, int]) -> bytes | None:
        if self._outputs.keys() & events.keys():
            self._read_output()
        if events.get(self._socket.fileno(), 0) & ~select.POLLOUT:
            try:
                chunk = self._socket.recv(_CHUNK)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise EOFError
            going.incoming += chunk
            return going.answer(self._cap_bytes)
        if self._exit_fd in events:  # and nothing is left in the socket, which what it forked may hold open
            raise EOFError
        return None

    def _read_output(self) -> bool:
        """Read one chunk of each stream; False if there is none now."""
        found = False
        for fd, (name, pipe) in self._outputs.items():
            chunk = pipe.read(_CHUNK)
            if chunk == b"":  # closed by the child: poll would report it for ever
                with suppress(KeyError):
                    self._poll.unregister(fd)
            elif chunk and self._echo is not None:
                self._echo(name, chunk)
            self._printed[name] += chunk or b""
            del self._printed[name][: -OUTPUT_KEPT_BYTES // 2]
            found = found or bool(chunk)
        return found

    def _read_rest(self) -> None:
        """Read what is left in the pipes, but not for ever: a process that left the group may print on."""
        for _ in range(4):
            if not self._read_output():
                break

    def printed(self) -> dict[str, str]:
        """The end of the output since the question, stderr and then stdout, as details of a result."""
        self._read_rest()
        stderr, stdout = (kept.decode(errors="replace") for kept in self._printed.values())
        between = "\n" if stderr and stdout and not stderr.endswith("\n") else ""
        return {"stderr": stderr + between + stdout} if stderr or stdout else {}

    def ends_by_itself(self) -> bool:
        """Wait for the end of a child whose socket has closed; False if it still runs after the grace."""
        if self._exit_fd >= 0:
            gone = select.poll()
            gone.register(self._exit_fd, select.POLLIN)
            return bool(gone.poll(_GRACE_S * 1000))
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        return self._process.returncode is not None

    def kill(self) -> int:
        """Kill the child with its process group; return its exit code, or -N after signal N."""
        if not self._killed:  # once only: after `wait` the process id may be reused
            self._killed = True
            kill_group(self._process.pid)
        return self._process.wait()

    def end(self) -> None:
        self.kill()
        self._close()
        self._folder.remove()

    def disown(self) -> None:
        """In a forked process: release a child that belongs to the parent."""
        self._process.returncode = 0  # else Popen would warn about, and later wait for, a child of another process
        self._close()
        self._folder.disown()

    def _close(self) -> None:
        self._socket.close()
        for _, pipe in self._outputs.values():
            pipe.close()
        if self._exit_fd >= 0:
            os.close(self._exit_fd)
