"""Which commands run in warm interpreters, how long these live, and that a run ends there as it does elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mirrorneuron.processes.by_environment import pids_with
from mirrorneuron.settings import Settings
from tests.runners.test_host_local_ends import is_gone, pids_in, request_for, wait_until
from workers.lifecycle.run_handle import RunHandle
from workers.runners import warm_python
from workers.runners.command import mark_of
from workers.runners.host_local import HostLocal
from workers.runners.protocol import RunResult
from workers.runners.warm_interpreter import Interpreter
from workers.runners.warm_python import KEPT, WarmPythons, key_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interpreters are kept warm on Linux only")

PARENT = "import os; print(os.getppid())"
SESSIONS = """
import os, sys, time
for alone in (False, True):  # a child in the group, and one in a session of its own; neither executes a program
    if os.fork() == 0:
        if alone: os.setsid()
        break
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
time.sleep(1000)
"""


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[HostLocal]:
    runner = HostLocal(Settings.load(temp_dir=tmp_path / "node", warm_python=True))
    yield runner
    runner.warm.close()


@pytest.fixture
def run(runner: HostLocal) -> Callable[..., RunResult]:
    def run(*words: str, handle: RunHandle | None = None, **config) -> RunResult:
        return runner.run(request_for({"command": ["python3", *words], **config}), handle or RunHandle())

    return run


def parent_of(run: Callable[..., RunResult], **config) -> int:
    result = run("-c", PARENT, **config)
    assert result.error is None, result
    return int(result.sandbox["stdout"])


def test_commands_share_an_interpreter(run):
    parent = parent_of(run)
    assert parent != os.getpid()
    assert [parent_of(run) for _ in range(3)] == [parent] * 3


def test_a_node_or_a_manifest_may_turn_it_on_and_off(tmp_path):
    for setting, key, is_warm in ((False, None, False), (False, True, True), (True, None, True), (True, False, False)):
        runner = HostLocal(Settings.load(temp_dir=tmp_path / "node", warm_python=setting))
        config = {"command": ["python3", "-c", PARENT]} | ({} if key is None else {"warm_python": key})
        parent = int(runner.run(request_for(config), RunHandle()).sandbox["stdout"])
        assert (parent != os.getpid()) is is_warm, (setting, key)
        runner.warm.close()


@pytest.mark.parametrize("form", ["script", "-c", "-m"])
def test_each_form_runs_in_a_copy(run, tmp_path, form):
    """Copies share the hash seed, which the interpreter that is executed if a copy cannot do it would not."""
    if form != "-c" or sys.version_info < (3, 13):
        (tmp_path / "show.py").write_text(text := "print(hash('a word'))")
        words = {"script": ["show.py"], "-c": ["-c", text], "-m": ["-m", "show"]}[form]
        assert len({run(*words, workdir=str(tmp_path)).sandbox["stdout"] for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["python3"], {}),
        (["python3", "-"], {}),
        (["python3", "-u", "main.py"], {}),
        (["python3", "-X", "dev", "main.py"], {}),
        (["python3", "-c"], {}),
        (["python3", ""], {}),
        (["python2", "main.py"], {}),
        (["python3-config", "main.py"], {}),
        (["bash", "-c", "python3 main.py"], {}),
        (["bin/python3", "main.py"], {}),
        (["no-such-folder/python3", "main.py"], {}),
        (["python3", "main.py"], {"PYTHONHASHSEED": "1"}),
        (["python3", "main.py"], {"PYTHONUNBUFFERED": ""}),
        (["python3", "main.py"], {"PATH": "/nonexistent"}),
    ],
)
def test_what_could_differ_is_run_plainly(words, environment):
    assert key_of(words, {"PATH": os.path.dirname(sys.executable)} | environment) is None


def test_only_the_nodes_virtual_environment_is_kept_warm(tmp_path):
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    assert key_of(["python3", "main.py"], {"PATH": f"{other}/bin"}) is None
    assert key_of([f"{other}/bin/python", "main.py"], {}) is None
    assert key_of(["python3", "main.py"], {"PATH": os.path.dirname(sys.executable)}) is not None


def test_a_script_that_finds_an_interpreter_is_not_one(tmp_path):
    shim = tmp_path / "python3"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"')
    shim.chmod(0o755)
    assert key_of(["python3", "main.py"], {"PATH": str(tmp_path)}) is None


def test_each_environment_has_its_interpreter_and_only_some_are_kept(run, runner):
    first = parent_of(run, environment={"N": "0"})
    assert parent_of(run, environment={"N": "0"}) == first
    others = [parent_of(run, environment={"N": str(n)}) for n in range(1, KEPT + 1)]
    assert len({first, *others}) == KEPT + 1
    wait_until(lambda: is_gone(first))
    assert not any(is_gone(pid) for pid in others)


def test_long_arguments_and_environments_are_run_plainly(run):
    for config in ({"environment": {"LONG": "x" * 100_000}}, {}):
        words = ["-c", PARENT] + ([] if config else ["x" * 100_000])
        assert run(*words, **config).sandbox["stdout"] == f"{os.getpid()}\n"
    assert parent_of(run) != os.getpid()


def test_a_changed_environment_of_packages_needs_a_new_interpreter(tmp_path):
    """A `.pth` file that a package adds is read at the start only."""
    base = os.path.realpath(sys.executable)
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.path.dirname(base)}
    folder = packages_of(base, environment)
    pool = WarmPythons(tmp_path / "warm")

    def path() -> str:
        process = pool.start([base, "-c", "import sys; print(sys.path)"], tmp_path, environment)
        assert process is not None, pool.refused()
        with process.stdout, process.stderr:
            text = process.stdout.read().decode()
        assert process.wait() == 0
        return text

    assert "added" not in path()
    (tmp_path / "added").mkdir()
    (folder / "new.pth").write_text(f"{tmp_path / 'added'}\n")
    assert f"{tmp_path / 'added'}" in path()
    pool.close()


def packages_of(base: str, environment: dict[str, str]) -> Path:
    """The user's folder of packages, which holds `.pth` files."""
    ask = [base, "-c", "import site; print(site.getusersitepackages())"]
    folder = Path(subprocess.run(ask, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import os; os.write(2, b'hello')", "it prints something when it starts"),
        ("import _thread, time; _thread.start_new_thread(time.sleep, (1000,))", "it starts threads when it starts"),
        ("import os; os.dup(0)", "it opens files when it starts"),
        ("import os; os.environ['NEW'] = '1'", "it changes its environment when it starts"),
        ("import os; del os.environ['HOME']", "it changes its environment when it starts"),
        ("import sys; sys.excepthook = print", "it is traced, or changes `sys.excepthook` when it starts"),
        ("import sys; sys.settrace(lambda *_: None)", "it is traced, or changes `sys.excepthook` when it starts"),
        ("import sys, io; sys.stdout = io.StringIO()", "it replaces its streams when it starts"),
        ("import os; os._exit(0)", "it ended"),
    ],
)
def test_an_interpreter_whose_start_leaves_traces_is_not_kept(tmp_path, line, reason):
    """A copy would not have them, or would share them with others."""
    base = os.path.realpath(sys.executable)
    environment = {"HOME": str(tmp_path), "PATH": os.path.dirname(base)}
    (packages_of(base, environment) / "loud.pth").write_text(f"{line}\n")
    pool = WarmPythons(tmp_path / "warm")
    assert [pool.start([base, "-c", "pass"], tmp_path, environment) for _ in range(2)] == [None, None]
    assert pool.refused() == {base: reason}


def test_a_time_out_ends_all_processes_of_a_command(run, tmp_path):
    """Also those that left its session without executing a program: they show the environment of the run."""
    pids = tmp_path / "pids"
    result = run("-c", SESSIONS, str(pids), timeout_seconds=3)
    assert (result.error, result.sandbox["exit_code"], result.transient) == ("timed out after 3 s", 143, True)
    assert len(pids_in(pids)) == 3
    wait_until(lambda: all(is_gone(pid) for pid in pids_in(pids)))
    assert parent_of(run) != os.getpid()


def test_a_command_can_be_found_by_its_environment(run, tmp_path):
    pids, handle, results = tmp_path / "pids", RunHandle(), []
    thread = threading.Thread(target=lambda: results.append(run("-c", SESSIONS, str(pids), handle=handle)))
    thread.start()
    wait_until(lambda: len(pids_in(pids)) == 3)
    assert set(pids_in(pids)) <= set(pids_with(f"{mark_of(Settings.load(), 'n')}j:a"))
    leader = next(psutil.Process(pid) for pid in pids_in(pids) if os.getpgid(pid) == pid)
    assert leader.cmdline()[:2] == ["python3", "-c"]
    handle.kill("cancelled")
    thread.join()
    assert results[0].error == "cancelled"


def test_an_interpreter_that_is_killed_ends_its_command(run, tmp_path):
    pids, results = tmp_path / "pids", []
    parent = parent_of(run)
    thread = threading.Thread(target=lambda: results.append(run("-c", SESSIONS, str(pids))))
    thread.start()
    wait_until(lambda: len(pids_in(pids)) == 3)
    os.kill(parent, signal.SIGKILL)
    thread.join()
    assert (results[0].error, results[0].transient) == ("killed by signal SIGKILL", True)
    wait_until(lambda: all(is_gone(pid) for pid in pids_in(pids)))
    assert parent_of(run) not in (parent, os.getpid())


def test_an_idle_interpreter_that_is_killed_is_replaced(run):
    parent = parent_of(run)
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: is_gone(parent))
    assert parent_of(run) not in (parent, os.getpid())


def test_an_idle_interpreter_ends_by_itself(runner, run, monkeypatch):
    monkeypatch.setattr("workers.runners.warm_interpreter.IDLE_S", 0.01)
    parent = parent_of(run)
    wait_until(lambda: is_gone(parent))
    assert parent_of(run) != parent


def test_without_processes_commands_are_run_plainly(run, monkeypatch):
    def none_left(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(Interpreter, "__init__", none_left)
    assert parent_of(run) == os.getpid()


def test_an_unknown_version_is_run_plainly(run, runner, monkeypatch):
    monkeypatch.setattr("workers.runners.warm_interpreter.VERSIONS", ("3.99",))
    assert parent_of(run) == os.getpid()
    [reason] = runner.warm.refused().values()
    assert reason.endswith("is not among 3.99")


def test_many_runs_at_once_do_not_mix(run):
    results: dict[int, RunResult] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: run("-c", f"print({n})")})) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: result.sandbox["stdout"] for n, result in results.items()} == {n: f"{n}\n" for n in range(12)}


def test_runs_leak_no_descriptors(run):
    parent_of(run)
    before = len(os.listdir("/proc/self/fd"))
    for words in (["-c", "1/0"], ["missing.py"], ["-c", "import os; os.fork() or __import__('time').sleep(1000)"]):
        run(*words)
    assert len(os.listdir("/proc/self/fd")) <= before  # those of an earlier test may have been closed meanwhile


def test_a_forked_child_does_not_keep_the_interpreters_of_its_parent(run, runner):
    parent_of(run)
    pid = os.fork()
    if pid == 0:
        os._exit(len(runner.warm._idle))
    assert os.waitpid(pid, 0)[1] == 0
    assert len(runner.warm._idle) == 1


NODE = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from contextlib import contextmanager
from tests.runners.test_host_local_ends import DEATH_WATCH, HostLocal, RunHandle, Settings, request_for
guard = DEATH_WATCH.guard

@contextmanager
def seen(group):
    with guard(group), open({guarded!r}, "a") as file:
        print(group, file=file, flush=True)
        yield

DEATH_WATCH.guard = seen
runner = HostLocal(Settings.load(temp_dir=Path({temp!r}), warm_python=True))
for words in ([{first!r}, {parent!r}], [{text!r}, {pids!r}]):
    runner.run(request_for({{"command": ["python3", "-c", *words]}}), RunHandle())
"""


def test_commands_and_interpreters_die_with_their_node_however_it_dies(tmp_path):
    pids, parent, guarded = (tmp_path / name for name in ("pids", "parent", "guarded"))
    # Those that leave the group are found when the node starts, as is one whose node dies before it guards it.
    text = SESSIONS.replace("if alone: os.setsid()", "pass")
    first = "import os, sys; open(sys.argv[1], 'w').write(str(os.getppid()))"
    root, temp = str(Path(__file__).parents[2]), str(tmp_path)
    code = NODE.format(
        root=root, temp=temp, first=first, parent=str(parent), text=text, pids=str(pids), guarded=str(guarded)
    )
    with subprocess.Popen([sys.executable, "-c", code]) as node:
        wait_until(lambda: len(pids_in(pids)) == 3 and len(pids_in(guarded)) == 2)
        assert not any(is_gone(pid) for pid in (*pids_in(pids), *pids_in(parent)))
        node.kill()
    wait_until(lambda: all(is_gone(pid) for pid in (*pids_in(pids), *pids_in(parent))))


def test_the_program_is_compiled_once_for_each_interpreter(run, runner, monkeypatch):
    parent_of(run)
    [program] = runner.warm._folder.iterdir()
    assert program.suffix == ".pyc"
    monkeypatch.setattr(warm_python, "_COMPILE", "raise OSError")
    pool = WarmPythons(runner.warm._folder.parent / "other")
    assert pool.start([sys.executable, "-c", "pass"], Path("/"), {}) is None
    assert "it cannot compile the program" in pool.refused()[sys.executable]
