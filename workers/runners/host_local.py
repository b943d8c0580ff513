"""The runner `host_local`: run an executor's command on this node, in a fresh run folder.

The runner separates runs and cleans up after them. It is not a security boundary: a command has the rights of the
worker's user.
Source: MirrorNeuron (Elixir) lib/mirror_neuron/runner/host_local.ex; file and variable names are the same.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mirrorneuron.bundle.node_config import HOST_LOCAL
from mirrorneuron.settings import Settings
from mirrorneuron.text import signal_name
from workers.disk.work_folder import HeldFolder, remove_abandoned
from workers.lifecycle.run_handle import RunHandle, capped_s, limit_note
from workers.lifecycle.shortage import shortage_of
from workers.runners.answer import ANSWER_FILE, AnswerWatch, read_file
from workers.runners.child_process import Outcome, run_command
from workers.runners.command import INPUT_FILE, cluster_of, environment_of, variables_of, words_of, write_files
from workers.runners.output_capture import Capture
from workers.runners.protocol import RunRefused, RunRequest, RunResult, SandboxResult
from workers.runners.sandbox_paths import SANDBOX_ROOT, SandboxPaths
from workers.runners.uploads import copy_upload, uploads_of
from workers.runners.warm_python import WarmPythons

DEFAULT_PREFIX: Final = "host-local"
NOT_RUN: Final = 125  # exit codes like those of docker and shells
NOT_RUNNABLE: Final = 126
NOT_FOUND: Final = 127
_FIRST_LINE: Final = 512  # bytes of a script that are read
_WORDS_SEEN: Final = 50  # of a command that the shell or `env` could not start


class HostLocal:
    """The runner. Thread-safe: runs share only the folder that holds their run folders."""

    def __init__(self, settings: Settings) -> None:
        self._runs = (settings.temp_dir / "runs").absolute()
        self._cap_bytes = settings.max_output_bytes
        self._max_answer_bytes = settings.max_message_bytes
        self._cluster = cluster_of(settings)
        self._settings = settings
        self.warm = WarmPythons(settings.temp_dir.absolute() / "warm")
        remove_abandoned(self._runs)

    def run(self, request: RunRequest, handle: RunHandle) -> RunResult:
        """Run the command of *request* to its end. Failures are in the result, not raised."""
        name = sandbox_name(request)
        try:
            with HeldFolder(self._runs, name) as folder:
                return self._run_in(folder, name, request, handle)
        except ValueError as error:  # RunRefused, a body that is not valid JSON, a NUL in an argument
            return _not_run(request, name, NOT_RUN, str(error))
        except OSError as error:
            return _not_run(request, name, NOT_RUN, f"cannot prepare the run folder: {_reason(error)}", error)

    def _run_in(self, folder: Path, name: str, request: RunRequest, handle: RunHandle) -> RunResult:
        config = request.config
        timeout_s = capped_s(_timeout_s(config), self._settings.max_run_seconds)
        uploads = uploads_of(config)
        root = _path(config, "sandbox_upload_path", SANDBOX_ROOT)
        paths = SandboxPaths(folder, root, [upload.target for upload in uploads])
        for upload in uploads:
            copy_upload(upload, request.payloads_path, paths)
        workdir = paths.workdir(_path(config, "workdir", root))
        variables = variables_of(request, write_files(request, folder), workdir, self._cluster)
        words = words_of(config, variables, paths)
        environment = environment_of(config, variables, self._settings)
        if handle.reason is not None:
            return _not_run(request, name, NOT_RUN, handle.reason)
        watch = AnswerWatch()

        def echo(stream: str, chunk: bytes) -> None:
            if stream == "stdout":
                watch.add(chunk)
            if request.echo is not None:
                request.echo(stream, chunk)

        try:
            outcome = run_command(
                words,
                folder=workdir,
                environment=environment,
                stray_mark=f"{INPUT_FILE}={variables[INPUT_FILE]}",
                timeout_s=timeout_s,
                cap_bytes=self._cap_bytes,
                handle=handle,
                echo=echo,
                warm=self.warm if config.get("warm_python", self._settings.warm_python) else None,
            )
        except (FileNotFoundError, NotADirectoryError):
            if reason := _interpreter_missing(words[0], workdir, environment["PATH"]):
                return _not_run(request, name, NOT_RUNNABLE, f"command cannot be run: {words[0]}: {reason}")
            return _not_run(request, name, NOT_FOUND, f"command not found: {words[0]}")
        except OSError as error:
            return _not_run(request, name, NOT_RUNNABLE, f"command cannot be run: {words[0]}: {_reason(error)}", error)
        result = _result(
            request, name, workdir, outcome, limit_note(_timeout_s(config), self._settings.max_run_seconds)
        )
        result = replace(result, printed_key=watch.key if "stdout" in result.cut else "")
        if result.error is not None:
            hint = _line_ending_hint(words, workdir) if outcome.returncode in (NOT_FOUND, NOT_RUNNABLE) else ""
            return replace(result, error=result.error + hint)
        try:
            return replace(result, answer=read_file(Path(variables[ANSWER_FILE]), self._max_answer_bytes))
        except RunRefused as error:
            return replace(result, error=str(error))


def _interpreter_missing(word: str, workdir: Path, path: str) -> str:
    """Why an executable file cannot be started: its first line names a missing interpreter; "" if that is not it.

    The system says "No such file or directory" for the script then.
    """
    first = _first_line(os.path.join(workdir, word) if "/" in word else shutil.which(word, path=path) or "")
    if not first.startswith(b"#!"):
        return "its program loader is not on this node" if first.startswith(b"\x7fELF") else ""
    interpreter = repr(first[2:].strip(b" \t").decode("utf-8", "replace"))
    cause = " (the first line ends in CR: the file has Windows line endings)" if first.endswith(b"\r") else ""
    return f"its interpreter {interpreter} is not there{cause}"


def _line_ending_hint(words: Sequence[str], workdir: Path) -> str:
    """Name a script among *words* whose first line ends in CR: `env` and shells do not find its interpreter."""
    for word in " ".join(words).split()[:_WORDS_SEEN]:
        script = word.strip("'\"")
        first = _first_line(os.path.join(workdir, script))
        if first.startswith(b"#!") and first.endswith(b"\r"):
            return f"; the first line of {script} ends in CR: the file has Windows line endings"
    return ""


def _first_line(path: str) -> bytes:
    """The first line of a regular file, or as much as identifies it; empty if it cannot be read."""
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(_FIRST_LINE).partition(b"\n")[0]
    except (OSError, ValueError):
        return b""


def sandbox_name(request: RunRequest) -> str:
    """`<prefix>-<job>-<agent>` in [a-z0-9-]."""
    prefix = request.config.get("name_prefix") or DEFAULT_PREFIX
    text = f"{prefix}-{request.job_id}-{request.agent_id}".lower()
    return re.sub(r"[^a-z0-9-]", "-", text).strip("-")


def _path(config: Mapping[str, Any], key: str, default: str) -> str:
    value = config.get(key) or default
    if not isinstance(value, str) or "\0" in value:
        raise RunRefused(f"config.{key}: must be a path")
    return value


def _timeout_s(config: Mapping[str, Any]) -> float | None:
    value = config.get("timeout_seconds")
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise RunRefused("config.timeout_seconds: must be a number of seconds")
    return float(value)


def _result(request: RunRequest, name: str, workdir: Path, outcome: Outcome, limit: str) -> RunResult:
    code = outcome.returncode if outcome.returncode >= 0 else 128 - outcome.returncode
    error, transient = _verdict(outcome)
    if error and outcome.timed_out:
        error += limit
    streams = {"stdout": outcome.stdout, "stderr": outcome.stderr}
    return RunResult(
        _sandbox(request, name, code, str(workdir), streams),
        error,
        {stream: capture.total for stream, capture in streams.items() if capture.cut},
        transient,
        is_utf8=outcome.stdout.is_utf8,
    )


def _verdict(outcome: Outcome) -> tuple[str | None, bool]:
    """The error, if any, and whether a retry may succeed."""
    if outcome.stopped is not None:
        return outcome.stopped, outcome.timed_out
    if outcome.returncode < 0:
        return f"killed by signal {signal_name(-outcome.returncode)}", True
    if outcome.returncode > 0:
        return f"command exited with code {outcome.returncode}", outcome.returncode == os.EX_TEMPFAIL
    return None, False


def _not_run(request: RunRequest, name: str, code: int, error: str, cause: OSError | None = None) -> RunResult:
    shortage = shortage_of(cause) if cause else ""
    return RunResult(_sandbox(request, name, code, "", {}), error, transient=bool(shortage), shortage=shortage)


def _sandbox(
    request: RunRequest, name: str, code: int, remote_dir: str, streams: Mapping[str, Capture]
) -> SandboxResult:
    texts = {stream: capture.text() for stream, capture in streams.items()}
    stdout, stderr = texts.get("stdout", ""), texts.get("stderr", "")
    between = "\n" if stdout and stderr and not stdout.endswith("\n") else ""
    return SandboxResult(
        sandbox_name=name,
        remote_dir=remote_dir,
        exit_code=code,
        runner_exit_code=code,
        stdout=stdout,
        stderr=stderr,
        logs=stdout + between + stderr,
        raw_output="",
        runner=HOST_LOCAL,
        node_name=request.node_name,
    )


def _reason(error: OSError) -> str:
    hint = " (does it begin with a #! line?)" if error.errno == errno.ENOEXEC else ""
    return f"{error.strerror or error}{hint}"
