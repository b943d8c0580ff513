"""The main program of a module child: read one question, run the bundle's class, answer, wait for the next.

Wire format, both ways on one socket: a header (body length, question number), then JSON. The child first sends an empty
JSON object as number 0: "ready". The protocol does not use stdout and stderr: they belong to the bundle's code.

The imports of this file determine the start-up time of every child: the standard library and `mirrorneuron.agent`, but
not `workers` (the child runs this file alone), not Celery, not Redis, no pydantic models, and not `json`.
"""

from __future__ import annotations

import fcntl
import math
import os
import select
import signal
import struct
import sys
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from operator import attrgetter
from os import read, write  # by name, so that a bundle that patches `os` does not change the protocol
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, NoReturn

from mirrorneuron.agent import Action, Agent, Complete, Context, Emit, Record
from mirrorneuron.message import Message, decode, encode
from mirrorneuron.processes.parent_death import die_with

HEADER: Final = struct.Struct("!QQ")  #: length of the JSON that follows, number of the question
CHANNEL_LOST: Final = 74  #: exit code of a child that has lost its socket (EX_IOERR)
NAME: Final = "module_child"  #: how the child imports this file

_CHUNK: Final = 256 * 1024
_HIGH_FD: Final = 500  #: higher than the numbers that code closes or overwrites by mistake
_MAX_DEPTH: Final = 190  #: the JSON parser reads 200 levels, of which the message around a body takes some
_FRAMES: Final = 60
_SCALARS: Final = frozenset({str, int, bool, type(None)})


class Refusal(Exception):
    """The bundle's code did something invalid. The text explains it without a traceback."""


def main() -> NoReturn:
    """Serve until the parent ends. argv: pid of the parent, fd of the socket, seconds until an idle child exits."""
    parent, inherited, idle_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    die_with(parent)
    channel = _out_of_the_way(inherited)
    os.register_at_fork(
        after_in_child=lambda: os.close(channel)
    )  # processes forked by the bundle's code must not answer
    _clean_process()
    sources = Sources()
    try:
        # `encode` imports `uuid` and others at its first use: now, while the bundle's folder is not on the import path.
        _send(channel, 0, encode({}))
        while True:
            number, question = _receive(channel, idle_s)
            answer = sources.answer(question)
            _flush()
            _send(channel, number, answer)
    except EOFError:
        os._exit(0)  # skips atexit and join: threads that the bundle's code left running must not delay the exit
    except OSError:
        os._exit(CHANNEL_LOST)


def _out_of_the_way(fd: int) -> int:
    """Move the socket to a high descriptor, closed in commands that the bundle's code starts."""
    limit = os.sysconf("SC_OPEN_MAX")
    floor = _HIGH_FD if limit < 0 or limit > _HIGH_FD else limit // 2
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)
    os.close(fd)
    return high


def _clean_process() -> None:
    """Reset what the process inherited: ignored and blocked signals, arguments, the import path of this file."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {
        signal.SIGPIPE,
        signal.SIGXFSZ,
    }:  # Python ignores these two itself, and raises errors instead
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    sys.argv[:] = [""]
    with suppress(ValueError):
        sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
    sys.dont_write_bytecode = True  # the bundle's folder is a cache named by its digest, and must not change


def _receive(channel: int, idle_s: float) -> tuple[int, bytes]:
    """Return the next question. Raises EOFError if the parent has ended, or has sent none for *idle_s* seconds."""
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    if not waiting.poll(idle_s * 1000):
        raise EOFError
    length, number = HEADER.unpack(_exactly(channel, HEADER.size))
    return number, _exactly(channel, length)


def _exactly(channel: int, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        chunk = read(channel, min(size - len(parts), _CHUNK))
        if not chunk:
            raise EOFError
        parts += chunk
    return bytes(parts)


def _send(channel: int, number: int, body: bytes) -> None:
    rest = memoryview(HEADER.pack(len(body), number) + body)
    while rest:
        rest = rest[write(channel, rest) :]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the bundle's code may have closed or replaced them
            stream.flush()


class Sources:
    """The source folders of one bundle, and the agent classes found in them.

    Two agents of a bundle may have their modules in two folders, with the same names in both. Only the folder of
    the running agent is on the import path, and only its modules are in `sys.modules`; the other folders' modules are
    kept aside.
    """

    def __init__(self) -> None:
        self._classes: dict[tuple[str, str | None, str | None], tuple[Path | None, type[Agent]]] = {}
        self._current: Path | None = None
        self._kept_aside: dict[Path, dict[str, ModuleType]] = {}

    def answer(self, question: bytes) -> bytes:
        """Run one question and return its outcome as JSON. Never raises: an error is an answer too."""
        try:
            return self._run(decode(question))
        except Refusal as refusal:
            return _failure(str(refusal), "", permanent=True)
        except BaseException as error:
            return _failure(_one_line(error), _traceback(error))

    def _run(self, question: dict[str, Any]) -> bytes:
        agent_class = self._find(question["config"], question["payloads_path"])
        parts = question["message"]
        message = Message(*(parts[name] for name in ("envelope", "body", "headers", "artifacts", "stream")))
        payloads = question["payloads_path"]
        context = Context(
            job_id=question["job_id"],
            agent_id=question["agent_id"],
            config=question["config"],
            payloads_path=Path(payloads) if payloads is not None else None,
        )
        agent = agent_class()
        agent.state = question["state"]
        returned: object = agent.handle(message, context)  # type: ignore[func-returns-value]
        _reject_returned(returned, f"{agent_class.__qualname__}.handle")
        return _success(agent.state, list(context.actions))

    def _find(self, config: dict[str, Any], payloads: str | None) -> type[Agent]:
        name, source = config.get("module"), config.get("module_source")
        if not isinstance(name, str) or not isinstance(source, str | None):
            raise Refusal("config.module and config.module_source must be strings")
        known = self._classes.get((name, source, payloads))
        if known is None:
            folder = _source_folder(payloads, source)
            self._switch(folder)
            found = _import(name, folder)
            self._classes[name, source, payloads] = folder, found
            return found
        self._switch(known[0])
        return known[1]

    def _switch(self, folder: Path | None) -> None:
        if folder == self._current:
            return
        if self._current is not None:
            with suppress(ValueError):
                sys.path.remove(str(self._current))
            ours = [name for name, module in list(sys.modules.items()) if _beneath(module, self._current)]
            self._kept_aside[self._current] = {name: sys.modules.pop(name) for name in ours}
        self._current = folder
        if folder is not None:
            sys.path.insert(0, str(folder))  # first, like the folder of a script
            sys.modules.update(self._kept_aside.pop(folder, {}))


def _reject_returned(returned: object, name: str) -> None:
    """Raise Refusal for a value that `handle` returned: the author expects an effect that it does not have."""
    if returned is None:
        return
    if hasattr(returned, "__await__") or isinstance(returned, Generator | AsyncGenerator):
        with suppress(Exception):
            returned.close()  # type: ignore[attr-defined]  # otherwise Python warns that it was never awaited
        if isinstance(returned, Generator):
            raise Refusal(f"{name} is a generator, which is not supported; send each message with context.emit")
        hint = "make it a plain method, which may call asyncio.run"
        raise Refusal(f"{name} is a coroutine function (async def), which is not supported yet; {hint}")
    hint = "use context.emit to send a message, or context.complete_job for the job's output"
    raise Refusal(f"{name} returned a value of type {type(returned).__name__}, which has no effect; {hint}")


def _source_folder(payloads: str | None, source: str | None) -> Path | None:
    """Return the folder for the import path. Raises Refusal for a source that is not in the payloads."""
    if source is None:
        return Path(payloads).resolve() if payloads is not None and os.path.isdir(payloads) else None
    if payloads is None:
        raise Refusal(f"module_source {source!r} does not exist: the bundle has no payloads/")
    root = Path(payloads).resolve()
    place = (root / source).resolve()
    if not place.is_relative_to(root) or not place.exists():
        raise Refusal(f"module_source {source!r} is not in the bundle's payloads/")
    return place if place.is_dir() else place.parent


def _import(name: str, folder: Path | None) -> type[Agent]:
    """Return the agent class `package.mod:Class`. Raises Refusal, and _ImportFailed if its module raises."""
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name or module_name.startswith("."):
        raise Refusal(f"config.module is {name!r}; it must be of the form package.mod:Class")
    top = module_name.partition(".")[0]
    if folder and top in sys.modules and not _beneath(sys.modules[top], folder) and _holds(folder, top):
        raise Refusal(
            f"cannot import {module_name}: the runtime has a module named {top!r} too; rename the one in the bundle"
        )
    try:
        __import__(module_name)  # not import_module, whose frames would be in every traceback
    except BaseException as error:
        raise _ImportFailed(f"cannot import {module_name}: {_one_line(error)}") from error
    try:
        found = attrgetter(class_name)(sys.modules[module_name])
    except AttributeError:
        raise Refusal(f"cannot import {class_name}: module {module_name!r} has no such class") from None
    if not isinstance(found, type) or not issubclass(found, Agent):
        raise Refusal(f"{name} is not a subclass of mirrorneuron.Agent")
    return found


class _ImportFailed(Exception):
    """The bundle's module cannot be imported; its cause is what the import raised."""


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").exists() or (folder / name).is_dir()


def _beneath(module: object, folder: Path) -> bool:
    """True if *module* was loaded from *folder*. A package without `__init__.py` has a path, but no file."""
    try:
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        return str(place).startswith(f"{folder}{os.sep}")
    except Exception:  # sys.modules may hold any object
        return False


def _success(state: object, actions: list[Action]) -> bytes:
    if not isinstance(state, dict):
        raise Refusal(f"state must be a dict of JSON values, not {type(state).__name__}")
    _check(state, "state")
    packed = [_pack(action) for action in actions]
    try:
        return encode({"state": state, "actions": packed})
    except ValueError as error:
        raise Refusal(f"state or actions are not valid JSON: {error}") from None


def _pack(action: object) -> list[Any]:
    match action:
        case Emit(type, body, to, fields):
            if to is not None and not isinstance(to, str):
                raise Refusal(f"emit of {type!r}: `to` must be the id of an agent, not {to!r:.80}")
            _check(body, f"body of {type!r}")
            _check(dict(fields), f"message fields of {type!r}")
            return ["emit", type, body, to, dict(fields)]
        case Record(type, payload):
            _check(payload, f"payload of event {type!r}")
            return ["event", type, payload]
        case Complete(output):
            _check(output, "output of the job")
            return ["complete", output]
    raise Refusal(f"{action!r:.80} is not an action: use emit, event and complete_job of the context")


def _check(value: object, where: object, depth: int = 0) -> None:
    """Raise Refusal for values that JSON would change: sets, dates, bytes, NaN, keys that are not strings.

    The encoder would write most of them as another type, which the agent would find in its next state. *where* is a
    name, or a pair of the outer *where* and a key: the text is made only for an error.
    """
    if isinstance(value, dict | list | tuple):
        if depth > _MAX_DEPTH:
            raise Refusal(f"{_path(where)[:60]}... is nested too deeply or contains itself")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise Refusal(f"{_path(where)} has the key {key!r:.80}; keys of JSON objects must be strings")
        for place, item in value.items() if isinstance(value, dict) else enumerate(value):
            kind = type(item)  # one call per item would take a second for a million numbers
            if kind not in _SCALARS and not (kind is float and math.isfinite(item)):
                _check(item, (where, place), depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Refusal(f"{_path(where)} is {value}, which JSON cannot represent")
    elif value is not None and not isinstance(value, str | int):
        raise Refusal(f"{_path(where)} is of type {type(value).__name__}, which is not a JSON value")


def _path(where: object) -> str:
    keys: list[str] = []
    while isinstance(where, tuple):
        where, key = where
        keys.append(f"[{key!r:.80}]")
    return f"{where}{''.join(reversed(keys))}"[:200]


def _failure(error: str, trace: str, *, permanent: bool = False) -> bytes:
    def clean(text: str) -> str:  # the text may hold half a surrogate pair
        return text.encode("utf-8", "replace").decode()

    return encode({"error": clean(error), "traceback": clean(trace), "permanent": permanent})


def _one_line(error: BaseException) -> str:
    if isinstance(error, _ImportFailed):
        return str(error)
    try:
        text = next(iter(str(error).splitlines()), "")
    except BaseException:
        text = "(its text cannot be read)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _traceback(error: BaseException) -> str:
    """The traceback of *error*, without the first frames, which are of this file."""
    if isinstance(error, _ImportFailed) and error.__cause__ is not None:
        error = error.__cause__
    frame: TracebackType | None = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frame, limit=-_FRAMES))
    except BaseException:  # source in an odd encoding, a text that raises, a patched module
        return ""
