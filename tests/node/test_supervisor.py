"""The supervisor restarts workers that end, and no worker outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.errors import SettingsError
from mirrorneuron.processes import identity
from tests.support.waiting import wait_until
from workers.node import supervisor
from workers.node.supervisor import PROGRAM, WorkerSpec, plan_workers

ROOT = Path(__file__).resolve().parents[2]

#: Runs the specs given as JSON, with the module's constants changed as given.
HARNESS = """
import json, logging, sys
from workers.node import supervisor
logging.basicConfig(level="INFO", format="%(message)s")
specs, constants, grace = json.loads(sys.argv[1])
vars(supervisor).update(constants)
sys.exit(supervisor.run([supervisor.WorkerSpec(n, tuple(a)) for n, a in specs], stop_grace_s=grace))
"""

#: A worker that says when it is ready (its signals are set up), then does what its first argument says.
WORKER = """
import os, signal, subprocess, sys
from pathlib import Path
act, folder = sys.argv[1], Path(sys.argv[2])
if act == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if act == "polite":
    signal.signal(signal.SIGTERM, lambda *_: (Path(folder, f"bye-{os.getpid()}").touch(), os._exit(0)))
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) if act == "parent" else None
Path(folder, f"new-{os.getpid()}").write_text(str(child.pid if child else ""))
os.rename(Path(folder, f"new-{os.getpid()}"), Path(folder, f"up-{os.getpid()}"))
while True:
    signal.pause()
"""


class Supervised:
    """A supervisor in a separate process, and the fake workers that have reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        specs: Sequence[tuple[str, list[str]]],
        *,
        grace_s: float = 30,
        hup: signal.Handlers = signal.SIG_DFL,
        **constants: float,
    ) -> None:
        payload = json.dumps([specs, {"BACKOFF_S": 0.01, **constants}, grace_s])
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HARNESS, payload],
                cwd=ROOT,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGHUP, hup),  # the suite itself may run under nohup
            )

    def fakes(self, *acts: str, **options: Any) -> list[int]:
        """Start one fake worker for each act; return their pids once all are up."""
        self.start([(act, [sys.executable, "-c", WORKER, act, str(self.folder)]) for act in acts], **options)
        return wait_until(lambda: found if len(found := self.up()) == len(acts) else [])

    def up(self) -> list[int]:
        return sorted(int(path.name.removeprefix("up-")) for path in self.folder.glob("up-*"))

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=60)

    def log(self) -> str:
        return self.log_path.read_text()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    one = Supervised(tmp_path)
    yield one
    if one.process is not None:
        one.process.kill()
        one.process.wait()
    for pid in one.up():
        wait_until(gone(pid))


def gone(pid: int) -> Callable[[], bool]:
    return lambda: identity.find(pid) is None


def crashing(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_node_is_a_light_worker_and_one_for_each_pool():
    """Routing never waits behind commands: light agents have a queue and a process of their own."""
    light, default, gpu = plan_workers("box", {"default": 4, "gpu": 1}, queue_of="ns.{}".format, level="WARNING")
    assert [one.name for one in (light, default, gpu)] == ["light", "default", "gpu"]
    assert light.argv[:7] == (sys.executable, "-P", str(PROGRAM), "celery", "-A", "workers", "worker")
    assert " ".join(light.argv[7:]).startswith("-Q ns.light -n light@box -P solo ")
    assert " ".join(gpu.argv[7:]).startswith("-Q ns.gpu -n gpu@box -P prefork -c 1 --prefetch-multiplier 1 ")
    for one in (light, default, gpu):
        quiet = ("--without-gossip", "--without-mingle", "--heartbeat-interval=10", "-E", "-l", "WARNING")
        assert one.argv[-len(quiet) :] == quiet


def test_a_node_can_serve_only_one_pool():
    (only,) = plan_workers("box", {"gpu": 2}, queue_of=str, light=False)
    assert only.name == "gpu"


def test_a_node_name_is_taken_literally():
    """Celery would expand %h."""
    (only,) = plan_workers("100%h", {}, queue_of=str)
    assert "light@100%%h" in only.argv


def test_a_pool_cannot_take_the_queue_of_the_light_agents():
    with pytest.raises(SettingsError, match=r"EXECUTOR_POOL_CAPACITIES.*'light' is reserved"):
        plan_workers("box", {"light": 1}, queue_of=str)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, 40])
def test_a_worker_that_ends_is_restarted(supervised, number):
    """Whatever ended it. The log has one line for it."""
    victim, survivor = supervised.fakes("plain", "plain")
    os.kill(victim, number)
    wait_until(lambda: len(supervised.up()) == 3)
    wait_until(gone(victim))
    assert identity.find(survivor), "the others are left alone"
    assert supervised.log().count("restarting in") == 1


def test_the_process_group_of_a_killed_worker_is_killed(supervised):
    """Processes of a pool whose parent is gone would hold slots and claims."""
    (parent,) = supervised.fakes("parent")
    child = int((supervised.folder / f"up-{parent}").read_text())
    os.kill(parent, signal.SIGKILL)
    wait_until(gone(child))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_workers_gracefully(supervised, number):
    """Each gets the chance to finish, and the supervisor ends with 0."""
    pids = supervised.fakes("polite", "polite")
    supervised.signal(number)
    assert supervised.wait() == 0
    assert all((supervised.folder / f"bye-{pid}").exists() for pid in pids)
    assert "killed" not in supervised.log()


def test_under_nohup_a_closed_terminal_stops_nothing(supervised):
    (victim,) = supervised.fakes("plain", hup=signal.SIG_IGN)
    supervised.signal(signal.SIGHUP)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(supervised.up()) == 2)


def test_a_worker_that_does_not_stop_within_the_grace_is_killed(supervised):
    (deaf,) = supervised.fakes("deaf", grace_s=0.1)
    supervised.signal(signal.SIGTERM)
    assert supervised.wait() == 0
    assert identity.find(deaf) is None
    assert "worker deaf did not stop in time: killed" in supervised.log()


def test_a_second_signal_ends_the_grace(supervised):
    """An operator who presses Ctrl-C again does not want to wait."""
    deaf, polite = supervised.fakes("deaf", "polite", grace_s=10_000)
    pair = {deaf, polite}
    supervised.signal(signal.SIGINT)
    wait_until(lambda: any((supervised.folder / f"bye-{pid}").exists() for pid in pair))
    supervised.signal(signal.SIGINT)
    assert supervised.wait() == 0
    assert all(identity.find(pid) is None for pid in pair)


def test_ctrl_c_in_the_terminal_reaches_the_supervisor_alone(supervised):
    """Workers have groups of their own, so a warm stop stays warm."""
    (worker,) = supervised.fakes("plain")
    assert os.getpgid(worker) == worker


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_killed_supervisor_leaves_no_worker(supervised):
    pids = supervised.fakes("deaf", "plain")
    supervised.signal(signal.SIGKILL)
    supervised.wait()
    for pid in pids:
        wait_until(gone(pid))


@pytest.mark.parametrize(
    ("code", "ends_with", "words"),
    [
        ("import sys; print('no such option: --frob', file=sys.stderr); sys.exit(2)", 2, "--frob"),
        ("import sys; sys.exit(64)", 64, ""),
        ("import os, sys; os.write(2, b'ImportError: no line end'); sys.exit(1)", 1, "no line end"),
        ("import no_such_module", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("from mirrorneuron.errors import SettingsError; raise SettingsError('MIRROR_NEURON_X')", 1, "MIRROR_NEURON_X"),
    ],
)
def test_a_hopeless_worker_ends_the_supervisor(supervised, code, ends_with, words):
    """With its code and its last words, and after a warm stop of the other workers."""
    polite = [sys.executable, "-c", WORKER, "polite", str(supervised.folder)]
    other_is_up = f"import glob, time\nwhile not glob.glob({str(supervised.folder / 'up-*')!r}): time.sleep(0.01)\n"
    supervised.start([("bad", crashing(other_is_up + code)), ("good", polite)])
    assert supervised.wait() == ends_with
    log = supervised.log()
    assert log.count("bad exited with code") == supervisor.HOPELESS_TRIES
    assert words in log.partition("5 times in a row")[2]
    (good,) = supervised.up()
    assert (supervised.folder / f"bye-{good}").exists()
    assert identity.find(good) is None


def test_a_worker_whose_server_is_unreachable_is_restarted_without_limit(supervised):
    """Only what no restart mends ends the supervisor."""
    supervised.start([("bad", crashing("raise ConnectionError('the store is away')"))], BACKOFF_MAX_S=0.01)
    wait_until(lambda: supervised.log().count("restarting in") > 2 * supervisor.HOPELESS_TRIES)
    supervised.signal(signal.SIGTERM)
    assert supervised.wait() == 0


@pytest.mark.parametrize(
    ("code", "constants"),
    [
        pytest.param("raise SystemExit(2)", {"AT_ONCE_S": 0}, id="it had come up"),
        pytest.param("raise SystemExit(2 if len(LIVES.read_text()) % 5 else 9)", {}, id="not always"),
        pytest.param("os.write(2, b'ImportError: no\\n'); os.kill(os.getpid(), 9)", {}, id="it was killed"),
        pytest.param("os.write(2, b'ImportError: no\\n' * (len(LIVES.read_text()) == 1)); sys.exit(1)", {}, id="once"),
    ],
)
def test_a_worker_that_is_not_hopeless_is_restarted_without_limit(supervised, code, constants):
    """Wrong arguments and imports that fail are hopeless only in an ending at once, by itself, and many in a row."""
    begin = "import os, sys; from pathlib import Path"
    lives = f"LIVES = Path({str(supervised.folder / 'lives')!r}); LIVES.open('a').write('x')"
    supervised.start([("bad", crashing(f"{begin}\n{lives}\n{code}"))], BACKOFF_MAX_S=0.01, **constants)
    wait_until(lambda: supervised.log().count("restarting in") > 2 * supervisor.HOPELESS_TRIES)
    supervised.signal(signal.SIGTERM)
    assert supervised.wait() == 0


def test_restarts_wait_twice_as_long_each_time_up_to_a_limit(supervised):
    supervised.start([("bad", crashing("raise SystemExit(9)"))], BACKOFF_S=0.1, BACKOFF_MAX_S=0.4)
    lines = wait_until(lambda: found if len(found := supervised.log().split("restarting in ")[1:]) >= 4 else [])
    assert [line.split()[0] for line in lines[:4]] == ["0.1", "0.2", "0.4", "0.4"]


def test_a_worker_that_ran_long_is_restarted_with_the_first_backoff(supervised):
    supervised.start([("bad", crashing("raise SystemExit(9)"))], BACKOFF_S=0.1, SETTLED_S=0)
    lines = wait_until(lambda: found if len(found := supervised.log().split("restarting in ")[1:]) >= 3 else [])
    assert {line.split()[0] for line in lines} == {"0.1"}


def test_a_worker_that_cannot_be_started_is_tried_again(supervised):
    """The machine may be out of processes for a moment."""
    supervised.start([("bad", ["/no/such/program"])])
    wait_until(lambda: supervised.log().count("could not be started") >= 2)
    supervised.signal(signal.SIGTERM)
    assert supervised.wait() == 0


def test_much_output_on_stderr_is_copied_and_blocks_nothing(supervised):
    """More than a pipe holds, from a worker without a single line end."""
    supervised.start([("loud", crashing("import os; [os.write(2, b'x' * 65536) for _ in range(64)]"))])
    wait_until(lambda: "restarting in" in supervised.log())
    assert supervised.log().partition("worker loud exited")[0].count("x") == 64 * 65536


def test_the_supervisor_sleeps_while_nothing_happens(supervised):
    """It never spins: a moment of its life costs no measurable processor time."""
    (worker,) = supervised.fakes("plain")
    pid = supervised.process.pid
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"S")

    def sleeps() -> bool:
        """Time passes measured by what another process does, not by a clock."""
        before = cpu_ticks(pid)
        subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
        return cpu_ticks(pid) - before <= 1

    wait_until(sleeps)  # it may have had a thing or two to do for its start
    assert identity.find(worker)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_real_worker_that_cannot_load_its_app_ends_with_usage_words(supervised):
    """What Celery itself says is recognized."""
    (spec,) = plan_workers("box", {}, queue_of=str)
    argv = [word if word != "workers" else "no_such_app" for word in spec.argv]
    assert isinstance(spec, WorkerSpec)
    supervised.start([("light", argv)])
    assert supervised.wait() == 2
    assert "no_such_app" in supervised.log().partition("5 times in a row")[2]


def test_a_stop_grace_of_more_than_24_days_is_only_a_late_deadline(supervised):
    """`epoll` takes a C int of milliseconds."""
    supervised.fakes("polite", grace_s=10**9)
    supervised.signal(signal.SIGTERM)
    assert supervised.wait() == 0
    assert "Overflow" not in supervised.log()
    assert list(supervised.folder.glob("bye-*"))
