"""The main program of a module child: read one question, run the bundle's class, answer, wait for the next.

Wire format, both ways on one socket: a header (body length, question number), then JSON. The child first sends an empty
JSON object as number 0: "ready". The protocol does not use stdout and stderr: they belong to the bundle's code.

The imports of this file determine the start-up time of every child: the standard library and `mirrorneuron.modules`,
but not `workers` (the child runs this file alone), not Celery, not Redis, no pydantic models, and not `json`.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
from contextlib import suppress
from os import read, write  # by name, so that a bundle that patches `os` does not change the protocol
from typing import Final, NoReturn

from mirrorneuron.message import encode
from mirrorneuron.modules.logs import Logs
from mirrorneuron.modules.sources import Sources
from mirrorneuron.processes.parent_death import die_with

HEADER: Final = struct.Struct("!QQ")  #: length of the JSON that follows, number of the question
CHANNEL_LOST: Final = 74  #: exit code of a child that has lost its socket (EX_IOERR)
NAME: Final = "module_child"  #: how the child imports this file

_CHUNK: Final = 256 * 1024
_HIGH_FD: Final = 500  #: higher than the numbers that code closes or overwrites by mistake


def main() -> NoReturn:
    """Serve until the parent ends. argv: pid of the parent, fd of the socket, seconds until an idle child exits."""
    parent, inherited, idle_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    die_with(parent)
    channel = _out_of_the_way(inherited)
    os.register_at_fork(
        after_in_child=lambda: os.close(channel)
    )  # processes forked by the bundle's code must not answer
    _clean_process()
    sources = Sources(Logs())
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
