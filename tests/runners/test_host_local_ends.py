"""How a run ends: by itself, badly, loudly, too late, or because someone ends it. Nothing of it is left behind."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from mirrorneuron.message import Message, seed
from mirrorneuron.processes.by_environment import pids_with
from mirrorneuron.settings import Settings
from workers.lifecycle.run_handle import RunHandle
from workers.runners import child_process
from workers.runners.command import mark_of
from workers.runners.host_local import HostLocal
from workers.runners.orphan_killer import DEATH_WATCH
from workers.runners.protocol import RunRequest, RunResult

CAP_BYTES = 100_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(temp_dir=tmp_path / "node", max_output_bytes=CAP_BYTES)


@pytest.fixture
def run(settings: Settings) -> Callable[..., RunResult]:
    runner = HostLocal(settings)

    def run(command, handle=None, **config) -> RunResult:
        return runner.run(request_for({"command": command, **config}), handle or RunHandle())

    return run


def request_for(config: dict) -> RunRequest:
    message = Message(**seed({}, job_id="j", to="a", message_id="m", timestamp="now"))
    return RunRequest("j", "a", "executor", "generic", config, message, {}, None, "n")


def wait_until(fact: Callable[[], object]) -> None:
    """Returns when *fact* holds; pytest's own time-out is the limit."""
    while not fact():
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """True if the process has ended; a zombie counts, because some machines do not reap orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def pids_in(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize(
    ("command", "exit_code", "error", "transient"),
    [
        ("exit 3", 3, "command exited with code 3", False),
        ("exit 75", 75, "command exited with code 75", True),
        ("kill -KILL $$", 137, "killed by signal SIGKILL", True),
        ("kill -TERM $$", 143, "killed by signal SIGTERM", True),
        ("kill -40 $$", 168, "killed by signal 40", True),
        (["no-such-command", "x"], 127, "command not found: no-such-command", False),
        (["./no/such"], 127, "command not found: ./no/such", False),
        (["/etc/passwd"], 126, "command cannot be run: /etc/passwd: Permission denied", False),
        (["/"], 126, "command cannot be run: /: Permission denied", False),
    ],
)
def test_a_failure_is_a_one_line_error_and_an_exit_code(run, command, exit_code, error, transient):
    result = run(command)
    assert (result.error, result.sandbox["exit_code"], result.transient) == (error, exit_code, transient)


def test_a_script_without_an_interpreter_line_gets_a_hint(run, tmp_path):
    script = tmp_path / "script"
    script.write_text("echo hi")
    script.chmod(0o755)
    assert run([str(script)]).error.endswith("Exec format error (does it begin with a #! line?)")


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (
            "#!/bin/sh\r",
            "its interpreter '/bin/sh\\r' is not there (the first line ends in CR: the file has Windows line endings)",
        ),
        ("#!/no/such/interpreter -x", "its interpreter '/no/such/interpreter -x' is not there"),
    ],
)
def test_a_script_whose_interpreter_is_missing_is_not_called_missing_itself(run, tmp_path, first, error):
    script = tmp_path / "script"
    script.write_bytes(f"{first}\necho hi\n".encode())
    script.chmod(0o755)
    result = run([str(script)])
    assert (result.error, result.sandbox["exit_code"]) == (f"command cannot be run: {script}: {error}", 126)


@pytest.mark.parametrize("shebang", ["#!/usr/bin/env sh", "#!/bin/sh"])
def test_windows_line_endings_are_named_if_a_shell_or_env_fails_by_them(run, tmp_path, shebang):
    script = tmp_path / "script"
    script.write_bytes(f"{shebang}\r\nno-such-command\r\n".encode())
    script.chmod(0o755)
    hint = f"; the first line of {script} ends in CR: the file has Windows line endings"
    for command in (f"'{script}'", ["sh", str(script)], ["env", str(script)]):
        assert run(command).error.endswith(hint), command


def test_a_failed_run_keeps_its_output(run):
    result = run("echo before; echo why >&2; exit 1")
    assert (result.sandbox["stdout"], result.sandbox["stderr"]) == ("before\n", "why\n")


def test_a_shortage_of_resources_is_transient(run, monkeypatch):
    def fork_fails(*args, **kwargs):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fork_fails)
    result = run("true")
    assert result.error == "command cannot be run: bash: Resource temporarily unavailable"
    assert result.transient


def test_a_run_folder_that_cannot_be_made_is_an_error_of_the_run(tmp_path):
    (tmp_path / "node").write_text("a file")
    result = HostLocal(Settings.load(temp_dir=tmp_path / "node")).run(request_for({"command": "true"}), RunHandle())
    assert result.error == "cannot prepare the run folder: Not a directory"


def test_output_that_is_not_utf_8_is_kept_with_replacement(run):
    result = run(["printf", r"a\377b\303(\000"])
    assert result.sandbox["stdout"] == "a\ufffdb\ufffd(\0"
    assert result.error is None


def test_output_over_the_cap_keeps_its_beginning_and_its_end(run):
    result = run("echo first; head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last; echo small >&2")
    head, marker, tail = result.sandbox["stdout"].partition(
        "\n[... output cut: 1000012 bytes in all, 100000 kept ...]\n"
    )
    assert marker
    assert head.startswith("first\nxxx")
    assert tail.endswith("xxx\nlast\n")
    assert len(head) + len(tail) == CAP_BYTES
    assert result.cut == {"stdout": 1000012}
    assert result.sandbox["stderr"] == "small\n"
    assert result.error is None


def test_output_of_exactly_the_cap_is_whole(run):
    result = run(f"head -c {CAP_BYTES} /dev/zero | tr '\\0' x")
    assert result.sandbox["stdout"] == "x" * CAP_BYTES
    assert result.cut == {}


def test_gigabytes_of_output_take_no_memory(run):
    """200 MB on each stream; the peak of allocated memory is a few caps and chunks."""
    tracemalloc.start()
    try:
        result = run("yes | head -c 200000000; yes | head -c 200000000 >&2")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.error is None
    assert result.cut == {"stdout": 200000000, "stderr": 200000000}
    assert "200000000 bytes in all" in result.sandbox["stderr"]
    assert peak_bytes < 20 * CAP_BYTES


def test_stdin_is_empty(run):
    assert run("cat; echo end").sandbox["stdout"] == "end\n"


def test_children_that_hold_the_pipes_do_not_hang_the_run_and_are_ended(run, tmp_path):
    """The command itself succeeds; its output up to then is whole."""
    pids = tmp_path / "pids"
    result = run(f"sleep 1000 & echo $! >{pids}; echo done")
    assert (result.error, result.sandbox["stdout"]) == (None, "done\n")
    [pid] = pids_in(pids)
    wait_until(lambda: is_gone(pid))


def test_a_child_that_keeps_printing_is_killed_too(run, tmp_path):
    pids = tmp_path / "pids"
    assert run(f"yes & echo $! >{pids}").error is None
    wait_until(lambda: is_gone(pids_in(pids)[0]))


def test_a_child_with_redirected_output_is_killed_and_not_waited_for(run, tmp_path, monkeypatch):
    """There is no grace if the pipes are closed: with the grace set here the test would time out."""
    monkeypatch.setattr(child_process, "PIPE_GRACE_S", 1000.0)
    pids = tmp_path / "pids"
    assert run(f"sleep 1000 >/dev/null 2>&1 & echo $! >{pids}").error is None
    wait_until(lambda: is_gone(pids_in(pids)[0]))


def test_a_child_in_a_session_of_its_own_that_holds_the_pipes_is_ended(run, tmp_path):
    pids = tmp_path / "pids"
    assert run(f"setsid bash -c 'echo $$ >{pids}; exec sleep 1000' & until [ -s {pids} ]; do :; done").error is None
    wait_until(lambda: is_gone(pids_in(pids)[0]))


DEAF_FAMILY = """
trap '' TERM
bash -c 'trap "" TERM; echo $$ >>{0}; while :; do sleep 1000; done' &
setsid bash -c 'trap "" TERM; echo $$ >>{0}; while :; do sleep 1000; done' &
echo $$ >>{0}
while :; do sleep 1000; done
"""


def test_a_time_out_kills_the_whole_group_even_if_it_ignores_term(run, tmp_path):
    """Children that ignore TERM, one of them in another session, are gone when the run returns."""
    pids = tmp_path / "pids"
    result = run(DEAF_FAMILY.format(pids), timeout_seconds=3)
    assert result.error == "timed out after 3 s"
    assert result.transient
    assert result.sandbox["exit_code"] == 137
    wait_until(lambda: all(is_gone(pid) for pid in pids_in(pids)))


@pytest.mark.parametrize(("wanted", "says"), [(None, ("1 s", "=1)")), (900, ("1 s", "=1)")), (0.2, ("0.2 s", "0.2 s"))])
def test_a_node_may_limit_the_length_of_runs(tmp_path, wanted, says):
    runner = HostLocal(Settings.load(temp_dir=tmp_path, max_run_seconds=1))
    config = {"command": "exec sleep 1000"} | ({"timeout_seconds": wanted} if wanted else {})
    error = runner.run(request_for(config), RunHandle()).error
    assert error.startswith(f"timed out after {says[0]}")
    assert error.endswith(says[1])
    assert ("MIRROR_NEURON_MAX_RUN_SECONDS" in error) is (wanted != 0.2)


def test_a_time_out_sends_term_before_kill(run):
    """TERM comes before KILL, and what the command says to it is kept."""
    command = "trap 'echo bye; exit 9' TERM; echo hello; while :; do sleep 0.01; done"
    result = run(command, RunHandle(grace_s=60), timeout_seconds=3)
    assert result.error == "timed out after 3 s"
    assert result.sandbox["stdout"].endswith("bye\n")
    assert result.sandbox["exit_code"] == 9


def in_background(work: Callable[[], RunResult]) -> Callable[[], RunResult]:
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()

    def result() -> RunResult:
        thread.join()
        return results[0]

    return result


def test_another_thread_can_end_a_run(run, tmp_path):
    handle, pids = RunHandle(grace_s=0.1), tmp_path / "pids"
    result = in_background(lambda: run(DEAF_FAMILY.format(pids), handle))
    wait_until(lambda: len(pids_in(pids)) == 3)
    handle.kill("cancelled")
    handle.kill("too late to be the reason")
    assert result().error == "cancelled"
    assert not result().transient
    wait_until(lambda: all(is_gone(pid) for pid in pids_in(pids)))


def test_a_run_that_is_killed_before_it_begins_does_not_start(run, tmp_path):
    handle = RunHandle()
    handle.kill("cancelled")
    result = run(["touch", str(tmp_path / "it-ran")], handle)
    assert result.error == "cancelled"
    assert not (tmp_path / "it-ran").exists()


def test_a_kill_just_before_the_start_is_not_lost(run, monkeypatch):
    """The handle is killed when all checks are past and the process does not exist yet."""
    handle, start = RunHandle(), subprocess.Popen

    def late(*args, **kwargs):
        handle.kill("cancelled")
        return start(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", late)
    assert run("exec sleep 1000", handle).error == "cancelled"


def test_a_kill_after_the_end_changes_nothing(run):
    handle = RunHandle()
    assert run("true", handle).error is None
    handle.kill("cancelled")


def test_a_run_that_is_interrupted_in_the_node_leaves_no_process(settings, tmp_path, monkeypatch):
    """A soft time limit or Ctrl-C is raised in the middle of waiting."""
    pids = tmp_path / "pids"

    def interrupted(child, due):
        wait_until(lambda: pids_in(pids))
        raise KeyboardInterrupt

    monkeypatch.setattr(child_process._Child, "read", interrupted)
    command = f"sleep 1000 & echo $! $$ >{pids}.new && mv {pids}.new {pids}; wait"
    with pytest.raises(KeyboardInterrupt):
        HostLocal(settings).run(request_for({"command": command}), RunHandle())
    wait_until(lambda: all(is_gone(pid) for pid in pids_in(pids)))
    assert list((settings.temp_dir / "runs").iterdir()) == []


def test_without_pidfd_a_thread_notices_the_end(run, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    assert run("echo out; exit 4").sandbox["exit_code"] == 4
    assert run("exec sleep 1000", timeout_seconds=0.05).error == "timed out after 0.05 s"
    assert run("sleep 1000 & echo done").sandbox["stdout"] == "done\n"


NODE = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from test_host_local_ends import HostLocal, RunHandle, Settings, request_for
HostLocal(Settings.load(temp_dir=Path({temp!r}))).run(request_for({{"command": {command!r}}}), RunHandle())
"""


def test_commands_die_with_their_node_however_it_dies(tmp_path):
    """The node is killed outright: its command and that command's children are gone at once."""
    pids, here = tmp_path / "pids", Path(__file__)
    # More than a pipe holds: it goes on once somebody reads, and so once it is watched over.
    printed = "head -c 200000 /dev/zero"
    command = f"{printed}; sleep 1000 & echo $! $$ >{pids}.new && mv {pids}.new {pids}; wait"
    code = NODE.format(tests=str(here.parent), root=str(here.parents[2]), temp=str(tmp_path), command=command)
    with subprocess.Popen([sys.executable, "-c", code]) as node:
        wait_until(lambda: pids_in(pids))
        assert set(pids_in(pids)) <= set(pids_with(f"{mark_of(Settings.load(), 'n')}j:a"))
        assert not any(is_gone(pid) for pid in pids_in(pids))
        node.kill()
    wait_until(lambda: all(is_gone(pid) for pid in pids_in(pids)))


def test_a_command_that_has_ended_is_no_longer_guarded(run):
    """Its id may be another's by the time this process dies."""
    handle = RunHandle()
    result = in_background(lambda: run("exec sleep 1000", handle))
    wait_until(lambda: DEATH_WATCH._file >= 0 and os.pread(DEATH_WATCH._file, 100, 0).strip())
    handle.kill("cancelled")
    assert result().error == "cancelled"
    assert os.pread(DEATH_WATCH._file, 100, 0).strip() == b""


def test_a_killed_orphan_killer_is_restarted(run):
    assert run("true").error is None
    os.kill(DEATH_WATCH._pid, signal.SIGKILL)
    killed = DEATH_WATCH._pid
    wait_until(lambda: is_gone(killed))
    assert run("true").error is None
    assert DEATH_WATCH._pid != killed


def test_a_forked_child_starts_its_own_orphan_killer(run):
    """Else a running child would keep the parent's pipe open after the parent's death."""
    assert run("true").error is None
    pid = os.fork()
    if pid == 0:
        os._exit(0 if DEATH_WATCH._pipe < 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert DEATH_WATCH._pipe >= 0


def test_runs_leak_no_descriptors(run):
    run("true")
    before = len(os.listdir("/proc/self/fd"))
    for command in ("echo a", ["no-such-command"], "sleep 1000 & true"):
        run(command)
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_descriptors_for_its_pipes_no_command_is_started(run, monkeypatch, tmp_path):
    """Another thread takes the last ones. A command that is not waited for would run for ever."""

    def none_left():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(selectors, "PollSelector", none_left)
    result = run("exec sleep 1000", environment={"LEFT_ALONE": str(tmp_path)})
    assert "Too many open files" in result.error
    assert result.transient
    assert pids_with(f"LEFT_ALONE={tmp_path}") == []


def test_many_runs_at_once_do_not_mix(run):
    results = [in_background(lambda n=n: run(f"echo {n}; echo {n} >&2")) for n in range(16)]  # type: ignore[misc]
    assert [result().sandbox["logs"] for result in results] == [f"{n}\n{n}\n" for n in range(16)]


@pytest.mark.parametrize("timeout_s", [2_147_484, 2_592_000, 10**9])
def test_a_timeout_of_more_than_24_days_is_only_a_late_deadline(run, timeout_s):
    """`epoll` takes a C int of milliseconds."""
    assert run(["echo", "ran"], timeout_seconds=timeout_s).sandbox["stdout"] == "ran\n"
