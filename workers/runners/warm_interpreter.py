"""One warm interpreter, and the commands that run in its copies: see `workers.runners.warm_python`."""

from __future__ import annotations

import io
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from mirrorneuron.processes.groups import kill_group

VERSIONS: Final = ("3.11", "3.12", "3.13")  # for which tests/runners/test_warm_equivalence.py has passed
IDLE_S: Final = 600.0  # until an idle interpreter ends
ROOM_BYTES: Final = 16_384  # that the environment of a run may take beyond that of the start
_START_S: Final = 10.0  # for an interpreter to be ready


class Key(NamedTuple):
    """What an interpreter is started with."""

    word: str  #: the first word of the command
    python: str  #: the path of the program
    environment: tuple[tuple[str, str], ...]  #: without the variables of one run


class NotWarm(Exception):
    """The interpreter cannot be kept warm; the text says why."""


class WarmProcess:
    """A command in the copy of a warm interpreter: what `run_command` needs of `subprocess.Popen`."""

    def __init__(
        self, warm: Interpreter, give_back: Callable[[Interpreter], None], pid: int, stdout: int, stderr: int
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None  #: as that of `Popen`; -9 if the warm interpreter was killed
        self.stdout, self.stderr = io.FileIO(stdout), io.FileIO(stderr)
        self._warm = warm
        self._give_back = give_back

    def exit_fd(self) -> int:
        """A new descriptor that is readable once the command has ended."""
        return os.dup(self._warm.channel.fileno())

    def wait(self) -> int:
        """Wait for the end of the command, and release its pid. Returns the exit status."""
        if self.returncode is None:
            answer = self._warm.receive(None)
            if answer.startswith(b"E"):
                self.returncode = int(answer[1:])
                self._give_back(self._warm)
            else:  # the interpreter was killed
                kill_group(self.pid)
                self.returncode = -signal.SIGKILL
                self._warm.end()
        return self.returncode


@dataclass(frozen=True, slots=True)
class _Seen:
    """Files that an interpreter reads when it starts, and what they were then."""

    paths: tuple[str, ...]
    states: tuple[tuple[int, int] | None, ...]

    @classmethod
    def of(cls, paths: Sequence[str]) -> _Seen:
        return cls(tuple(paths), tuple(map(_state, paths)))


class Interpreter:
    """One warm interpreter, for one program and environment. It ends when its socket closes: when this process dies."""

    def __init__(self, key: Key, program: Path) -> None:
        """Start it and wait until it is ready. Raises NotWarm or OSError."""
        self.key = key
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [key.word, str(program), str(theirs.fileno()), str(IDLE_S)],
                    executable=key.python,
                    cwd="/",
                    env={**dict(key.environment), "MIRROR_NEURON_WARMROOM_BYTES": "x" * ROOM_BYTES},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,  # like the streams of a command: the buffers depend on it
                    stderr=subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except BaseException:
            self.channel.close()
            raise
        try:
            self.version, paths = self._ready()
        except BaseException:
            self.end()
            raise
        self._seen = _Seen.of(_read_at_start(key.python, paths))

    def run(self, request: bytes, give_back: Callable[[Interpreter], None]) -> WarmProcess:
        """Start a command, once the copy leads its own session. Raises OSError."""
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for _ in range(2):
                readable, writable = os.pipe()
                ours.append(readable)
                theirs.append(writable)
            socket.send_fds(self.channel, [request], theirs)
            answer = self.receive(None)
            if not answer.startswith(b"P"):
                raise ConnectionResetError("it has ended")
            return WarmProcess(self, give_back, int(answer[1:]), *ours)
        except BaseException:
            for fd in ours:
                os.close(fd)
            self.end()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    def receive(self, limit_s: float | None) -> bytes:
        """The next answer; empty if the interpreter has ended. Raises TimeoutError."""
        self.channel.settimeout(limit_s)
        try:
            return self.channel.recv(65_536)
        except ConnectionError:
            return b""

    def reap(self) -> bool:
        """Release the pid of the command that has ended. False if the interpreter has ended."""
        try:
            self.channel.send(b"r")
        except OSError:
            self.end()
            return False
        return True

    def is_fresh(self) -> bool:
        """True if it lives, and a fresh interpreter would read the same files at its start."""
        due = select.poll()
        due.register(self.channel, select.POLLIN)
        if due.poll(0):  # nothing is due, so that its end is what can be read
            return False
        return _Seen.of(self._seen.paths) == self._seen

    def end(self) -> None:
        """Kill it. Does not touch a command that it has started."""
        self.channel.close()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _ready(self) -> tuple[str, list[str]]:
        """Wait until it is ready; return its version and import path. Raises NotWarm."""
        try:
            word, *about = self.receive(_START_S).split(b"\0")
        except TimeoutError:
            raise NotWarm(f"it was not ready within {_START_S:g} s") from None
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            if stream.read(200):
                raise NotWarm("it prints something when it starts")
            stream.close()
        if word != b"ready":
            raise NotWarm(b" ".join(about).decode(errors="replace") or "it ended")
        version = about[0].decode()
        if version not in VERSIONS:
            raise NotWarm(f"Python {version} is not among {', '.join(VERSIONS)}")
        return version, [os.fsdecode(path) for path in about[1:]]


def _read_at_start(python: str, import_path: Sequence[str]) -> list[str]:
    """What an interpreter reads when it starts: itself, its environment's file, its folders and their `.pth` files."""
    folder = os.path.dirname(python)
    files = [python, f"{folder}/pyvenv.cfg", f"{os.path.dirname(folder)}/pyvenv.cfg"]
    for place in import_path:
        files.append(place)
        with suppress(OSError):
            files += (entry.path for entry in os.scandir(place) if entry.name.endswith(".pth"))
    return files


def _state(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size
