"""How a command ends: the exit codes, and what an error prints."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final

from typer.core import TyperGroup
from typer.exceptions import TyperException

from mirrorneuron.errors import (
    ManifestError,
    MirrorNeuronError,
    NotFound,
    RuntimeUnavailable,
    WaitTimeout,
)
from mirrorneuron.job import JobMap, JobStatus


class Code(IntEnum):
    """The exit codes of every command; MEANINGS describes them."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    TIMED_OUT = 4
    UNREACHABLE = 5
    BUG = 70
    UNWRITTEN = 74
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS: Final[Mapping[Code, str]] = {
    Code.OK: "Success.",
    Code.JOB_FAILED: "The job failed or was cancelled.",
    Code.USAGE: "Invalid arguments, settings or bundle, or the job's status does not allow the command.",
    Code.NOT_FOUND: "No such job, agent or dead letter.",
    Code.TIMED_OUT: "The job did not end within `--timeout`; it continues.",
    Code.UNREACHABLE: "The store or the broker is unreachable, or no runtime was found.",
    Code.BUG: "Internal error; `-v` shows the traceback.",
    Code.UNWRITTEN: "stdout cannot be written, for example because the disk is full.",
    Code.INTERRUPTED: "Ctrl-C. A job that the command followed continues.",
    Code.BROKEN_PIPE: "The reader of stdout closed it, as `head` does.",
}

# The first that fits. Whatever else the package raises is about what it was given.
CODES: Final[tuple[tuple[type[MirrorNeuronError], Code], ...]] = (
    (NotFound, Code.NOT_FOUND),
    (WaitTimeout, Code.TIMED_OUT),
    (RuntimeUnavailable, Code.UNREACHABLE),
    (MirrorNeuronError, Code.USAGE),
)

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # why stdout may take no more

_verbose = False


class ReaderGone(Exception):
    """Whoever read our output has ended, as `head` does."""


def note_verbose(value: bool) -> None:
    """Show tracebacks from now on, if *value*."""
    global _verbose
    _verbose = _verbose or value


def complain(text: str) -> None:
    """Print *text* to stderr, each line as `mn: ...`. A terminal that has gone is no error."""
    with suppress(OSError):
        for line in text.splitlines() or [""]:
            print(f"mn: {printable(line)}", file=sys.stderr)


def printable(text: str) -> str:
    """*text* with nothing that could steer a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def code_of_job(job: JobMap) -> Code:
    return Code.JOB_FAILED if job["status"] in (JobStatus.FAILED, JobStatus.CANCELLED) else Code.OK


def ending(command: TyperGroup) -> int:
    """Run *command* on `sys.argv` and return its exit code. A known error is one line, or one line an issue."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(command)
        sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        _let_go()
        return Code.BROKEN_PIPE
    except OSError as error:
        _let_go()
        complain(f"the output cannot be written: {error.strerror}")
        return Code.UNWRITTEN
    return code


def _let_go() -> None:
    """Have nothing more said about stdout, also at the flush of the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: TyperGroup) -> int:
    try:
        return int(command.main(prog_name="mn", standalone_mode=False) or Code.OK)
    except TyperException as error:  # wrong arguments
        _trace()
        context: Any = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        complain(" ".join(error.format_message().split()) + hint)
        return Code.USAGE
    except MirrorNeuronError as error:
        _trace()
        complain(_said(error))
        return next(code for kind, code in CODES if isinstance(error, kind))
    except ReaderGone:
        raise
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer's own way out, where it prints by itself: `mn --help`
            raise ReaderGone from end
        raise
    except KeyboardInterrupt:
        return Code.INTERRUPTED
    except Exception as error:
        _trace()
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            raise  # no file of that name: it is what we print
        more = "" if _verbose else "; -v shows where"
        complain(f"internal error, {type(error).__name__}: {error}{more}")
        return Code.BUG


def _said(error: MirrorNeuronError) -> str:
    if isinstance(error, ManifestError):
        return "\n".join(" ".join(str(issue).splitlines()) for issue in error.issues)
    return str(error)


def _trace() -> None:
    if _verbose:
        traceback.print_exc()
