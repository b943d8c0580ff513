"""Exit codes, and the text that an error prints."""

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
from mirrorneuron.text import printable


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

# The first match counts. Every other error of the package is about its input.
CODES: Final[tuple[tuple[type[MirrorNeuronError], Code], ...]] = (
    (NotFound, Code.NOT_FOUND),
    (WaitTimeout, Code.TIMED_OUT),
    (RuntimeUnavailable, Code.UNREACHABLE),
    (MirrorNeuronError, Code.USAGE),
)

#: Why stdout cannot be written: disk full, quota, file size limit, closed when the command was started.
UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})

_verbose = False


class StdoutClosed(Exception):
    """The reader of stdout has closed it, as `head` does."""


def note_verbose(value: bool) -> None:
    """Show the traceback of each error from now on, if *value* is true."""
    global _verbose
    _verbose = _verbose or value


def complain(text: str) -> None:
    """Print *text* to stderr, each line as `mn: ...`. A closed stderr is not an error."""
    with suppress(OSError):
        for line in text.splitlines() or [""]:
            print(f"mn: {printable(line)}", file=sys.stderr)


def code_of_job(job: JobMap) -> Code:
    return Code.JOB_FAILED if job["status"] in (JobStatus.FAILED, JobStatus.CANCELLED) else Code.OK


def run_command(command: TyperGroup) -> int:
    """Run *command* on `sys.argv` and return its exit code.

    A known error prints one line; an invalid bundle prints one line for each issue.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(command)
        sys.stdout.flush()
    except (BrokenPipeError, StdoutClosed):
        _discard_stdout()
        return Code.BROKEN_PIPE
    except OSError as error:
        _discard_stdout()
        complain(f"cannot write to stdout: {error.strerror}")
        return Code.UNWRITTEN
    return code


def _discard_stdout() -> None:
    """Redirect stdout to /dev/null, so that the interpreter's flush at exit reports no second error."""
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
        complain(_error_text(error))
        return next(code for kind, code in CODES if isinstance(error, kind))
    except StdoutClosed:
        raise
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer exits so when it prints itself: `mn --help`
            raise StdoutClosed from end
        raise
    except KeyboardInterrupt:
        return Code.INTERRUPTED
    except Exception as error:
        _trace()
        if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is None:
            raise  # an OSError without a file name comes from writing to stdout
        more = "" if _verbose else " (-v shows the traceback)"
        complain(f"internal error: {type(error).__name__}: {error}{more}")
        return Code.BUG


def _error_text(error: MirrorNeuronError) -> str:
    if isinstance(error, ManifestError):
        return "\n".join(" ".join(str(issue).splitlines()) for issue in error.issues)
    return str(error)


def _trace() -> None:
    if _verbose:
        traceback.print_exc()
