"""Warm Pythons: run `python3 script.py` in the copy of an interpreter that has started already.

A start of Python takes ten times as long as a small script. With `warm_python`, a worker process keeps an interpreter
for each program and environment that its commands use, started just as the command would be, which forks for each
command (`workers.runners.warm_server`). Such a command differs from one in a fresh interpreter only in what the
manifest reference says. What could make it differ more is run plainly: options of Python, variables that Python reads,
other virtual environments than the worker's, and interpreters that are not known.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from mirrorneuron.settings import PREFIX
from workers.runners.warm_interpreter import ROOM_BYTES, Interpreter, Key, NotWarm, WarmProcess

MARKER: Final = "MIRROR_NEURON_RUN_MARKER"
KEPT: Final = 4  # idle interpreters of one worker process; each takes about 10 MB, most of it shared
_WITHOUT_TEXT: Final = ("3.11", "3.12")  # later ones show the text of `-c` in tracebacks: it is run plainly there
_LONGEST: Final = 98_304  # bytes of a request; a packet of a socket has up to 200 KB
_PER_RUN: Final = (PREFIX, "MN_")  # variables that the runner sets for each run; no interpreter reads them
_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?")
_REFUSED: Final = 64  # most programs and environments that are remembered as unsuitable

#: Compiles the program so that the frame of its module is hidden: a frame that has not passed its RESUME counts as not
#: begun, in tracebacks and for `sys._getframe`, and the code of the module gets none.
_COMPILE: Final = """
import importlib.util, marshal, opcode, sys
code = compile(open(sys.argv[1], "rb").read(), "<warm>", "exec", 0, True)
resume = opcode.opmap["RESUME"]
words = [code.co_code[at : at + 2] for at in range(0, len(code.co_code), 2)]
hidden = b"".join(bytes([opcode.opmap["NOP"], 0]) if word[0] == resume else word for word in words)
with open(sys.argv[2], "wb") as file:
    file.write(importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code.replace(co_code=hidden)))
"""

log = logging.getLogger(__name__)


class WarmPythons:
    """The warm interpreters of one worker process. Thread-safe: each interpreter runs one command at a time."""

    def __init__(self, folder: Path) -> None:
        """*folder* gets the compiled program of each interpreter; only this user may write to it."""
        self._folder = folder
        self._lock = threading.Lock()
        self._idle: list[Interpreter] = []  #: the one that was used last is the last
        self._refused: dict[tuple[Key, bool], str] = {}  #: with True: for `-c` only
        _POOLS.add(self)

    def start(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> WarmProcess | None:
        """Start the command *words* in *folder*; None if it must be run plainly. The first use waits for the start."""
        key = key_of(words, environment)
        if key is None or (key, words[1] == "-c") in self._refused:
            return None
        request = _request(key.python, words, folder, environment)
        if request is None:
            return None
        try:
            warm = self._take(key)
            if words[1] == "-c" and warm.version not in _WITHOUT_TEXT:
                self.give(warm, reap=False)
                raise NotWarm("its tracebacks show the text of `-c`")
            return warm.run(request, self.give)
        except NotWarm as reason:
            log.info("commands of %s are run without a warm interpreter: %s", key.python, reason)
            if len(self._refused) < _REFUSED:
                self._refused[key, words[1] == "-c"] = str(reason)
        except OSError as error:  # such as too many processes, which the plain start reports
            log.warning("no warm interpreter for %s: %s", key.python, error)
        return None

    def give(self, warm: Interpreter, *, reap: bool = True) -> None:
        """Take *warm* back after a command, whose pid is released with *reap*."""
        if reap and not warm.reap():
            return
        with self._lock:
            self._idle.append(warm)
            spare = self._idle[:-KEPT]
            del self._idle[:-KEPT]
        for old in spare:
            old.end()

    def refused(self) -> dict[str, str]:
        """The programs that are run plainly, and why."""
        return {key.python: reason for (key, _), reason in self._refused.items()}

    def close(self) -> None:
        """End the idle interpreters."""
        with self._lock:
            idle, self._idle = self._idle, []
        for warm in idle:
            warm.end()

    def forget(self) -> None:
        """In a forked process: close the parent's sockets. Else the interpreters would outlive the parent."""
        for warm in self._idle:
            warm.channel.close()
        self._idle = []
        self._lock = threading.Lock()

    def _take(self, key: Key) -> Interpreter:
        """An interpreter for *key*, which nobody else uses: an idle one, or a new one. Raises NotWarm or OSError."""
        while True:
            with self._lock:
                found = next((warm for warm in reversed(self._idle) if warm.key == key), None)
                if found is None:
                    break
                self._idle.remove(found)
            if found.is_fresh():
                return found
            found.end()
        return Interpreter(key, self._program(key.python))

    def _program(self, python: str) -> Path:
        """The program, compiled for *python*. Raises NotWarm or OSError."""
        source = Path(__file__).with_name("warm_server.py")
        about = os.stat(python)
        identity = f"{os.path.realpath(python)} {about.st_mtime_ns} {about.st_size}\n{_COMPILE}"
        digest = hashlib.sha256(identity.encode() + source.read_bytes()).hexdigest()[:16]
        program = self._folder / f"{digest}.pyc"
        if not program.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                pass
            command = [python, "-I", "-S", "-c", _COMPILE, str(source), file.name]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if done.returncode:
                os.unlink(file.name)
                raise NotWarm(f"it cannot compile the program: {done.stderr[-200:].decode(errors='replace').strip()}")
            os.replace(file.name, program)
        return program


def key_of(words: Sequence[str], environment: Mapping[str, str]) -> Key | None:
    """The interpreter that *words* need, or None for a command that must be run plainly."""
    if sys.platform != "linux" or len(words) < 2 or not _PYTHON.fullmatch(os.path.basename(words[0])):
        return None
    if words[1].startswith("-") and (words[1] not in ("-c", "-m") or len(words) < 3):
        return None
    if not words[1] or any(name.startswith("PYTHON") for name in environment):
        return None
    python = words[0] if "/" in words[0] else shutil.which(words[0], path=environment.get("PATH", os.defpath))
    if python is None or not python.startswith("/") or not _is_program(python) or _of_another_environment(python):
        return None
    entries = {name: value for name, value in environment.items() if not name.startswith(_PER_RUN)}
    if mark := environment.get(MARKER):  # of the node alone: a node that starts again ends what it had left
        entries[MARKER] = ":".join([*mark.split(":")[:2], ""])
    return Key(words[0], python, tuple(entries.items()))


def _is_program(path: str) -> bool:
    """True for an ELF file. A script that finds the interpreter (a shim) may find another one each time."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _of_another_environment(python: str) -> bool:
    folder = os.path.dirname(python)
    places = (folder, os.path.dirname(folder))
    in_one = any(os.path.exists(f"{place}/pyvenv.cfg") for place in places)
    return in_one and os.path.realpath(folder) != os.path.realpath(os.path.dirname(sys.executable))


def _request(python: str, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> bytes | None:
    """The request for a command: program, folder, number of words, words, environment. None if it is too long."""
    entries = [f"{name}={value}" for name, value in environment.items()]
    fields = [python, str(folder), str(len(words)), *words, *entries]
    request = b"\0".join(map(os.fsencode, fields))
    own = sum(len(os.fsencode(entry)) + 1 for entry in entries if entry.startswith(_PER_RUN))
    if request.count(b"\0") != len(fields) - 1:
        raise ValueError("embedded null byte")  # as `subprocess` says
    return request if len(request) <= _LONGEST and own <= ROOM_BYTES else None


_POOLS: Final[weakref.WeakSet[WarmPythons]] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)
