"""`mn worker` starts this package `workers`, whatever other package of that name stands on the import path."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mirrorneuron.cli.commands import worker as command
from mirrorneuron.errors import MirrorNeuronError
from mirrorneuron.processes import identity
from mirrorneuron.settings import Settings
from mirrorneuron.store.job_store import Store
from tests.support.node import environment
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

MN = str(Path(sys.executable).parent / "mn")

MODULE_AGENT = """
from mirrorneuron import Agent
from workers.mail import send

class Sender(Agent):
    def handle(self, message, context):
        context.complete_job({"sent_by": send()})
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with a package `workers`, and a bundle whose module agent imports that package."""
    folder = tmp_path / "project"
    bundle = folder / "hello"
    (folder / "workers").mkdir(parents=True)
    (folder / "workers" / "__init__.py").write_text('"""The background workers of the project."""\n')
    (folder / "workers" / "tasks.py").write_text("raise ImportError('the package workers of the project')\n")
    (folder / "workers" / "mail.py").write_text("def send(): return 'the project'\n")
    (bundle / "payloads").mkdir(parents=True)
    (bundle / "payloads" / "sender.py").write_text(MODULE_AGENT)
    sender = {"node_id": "sender", "agent_type": "module", "config": {"module": "sender:Sender"}}
    manifest = {"manifest_version": "1.0", "graph_id": "hello", "entrypoints": ["sender"], "nodes": [sender]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def env(server: ValkeyServer, tmp_path: Path) -> dict[str, str]:
    namespace = f"program-{uuid.uuid4().hex}"
    return environment(Settings(redis_url=server.url, redis_namespace=namespace, temp_dir=tmp_path / "temp"))


class StartedNode:
    """`mn worker` in a process, and its registrations."""

    def __init__(self, env: Mapping[str, str], folder: Path, *options: str) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [MN, "worker", "--name", "box", "--json", *options],
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._store = Store(Settings(redis_url=env["MIRROR_NEURON_REDIS_URL"], redis_namespace=_namespace(env)))

    def workers(self) -> list[str]:
        """The names of the registered workers."""
        assert self.process.poll() is None, self.log.read_text()
        return sorted(node["name"] for node in self._store.registry.nodes())

    def announced(self) -> dict[str, object]:
        """The document of --json. After it stdout is closed, which ends the reading."""
        assert self.process.stdout is not None
        document: dict[str, object] = json.loads(self.process.stdout.read())
        return document

    def close(self) -> None:
        self.process.kill()  # on Linux its workers end with it
        self.process.communicate()
        self._store.client.close()


def _namespace(env: Mapping[str, str]) -> str:
    return env["MIRROR_NEURON_REDIS_NAMESPACE"]


@pytest.fixture
def started(env: dict[str, str], project: Path, request: pytest.FixtureRequest) -> Iterator[StartedNode]:
    """A node started in the project's folder; the parameter is its PYTHONPATH, with options after it."""
    path, *options = request.param.split(" ")
    node = StartedNode({**env, "PYTHONPATH": path.format(project=project)}, project, *options)
    yield node
    node.close()


@pytest.mark.parametrize(
    "started", [".", "{project} --log-level debug"], ids=["relative", "absolute, debug"], indirect=True
)
def test_a_project_with_its_own_package_workers_can_run_a_node(
    started: StartedNode, project: Path, env: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """Our workers load our package. The project's code, run by a module agent, loads the project's package.

    The log has a line for each task at level debug only.
    """
    assert started.announced()["pid"] == started.process.pid
    wait_until(lambda: started.workers() == ["default@box", "light@box"], timeout=60)
    ran = subprocess.run([MN, "run", "hello", "--json"], env=env, cwd=project, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr + started.log.read_text()
    assert '"sent_by": "the project"' in ran.stdout
    assert ("Task hello.open_job[" in started.log.read_text()) == ("debug" in request.node.name)
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(60) == 0
    assert "exited with code" not in started.log.read_text()


@pytest.mark.parametrize("started", [""], ids=["no PYTHONPATH"], indirect=True)
def test_a_signal_right_after_the_announcement_ends_the_node_with_0(started: StartedNode) -> None:
    """The command turns into the supervisor at that moment: the signal waits until the supervisor can handle it."""
    started.announced()
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(60) == 0
    assert "Traceback" not in started.log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("started", [""], ids=["no PYTHONPATH"], indirect=True)
def test_the_supervisor_keeps_the_pid_and_shows_as_mn_worker(started: StartedNode) -> None:
    """The recorded pid is that of the node, and `ps` shows which node a process is."""
    before = identity.find(started.process.pid)
    wait_until(lambda: started.workers() == ["default@box", "light@box"], timeout=60)
    assert identity.find(started.process.pid) == before
    words = Path(f"/proc/{started.process.pid}/cmdline").read_bytes().decode().split("\0")
    assert " ".join(words[3:6]) == "mn worker --name=box"
    started.process.terminate()
    assert started.process.wait(60) == 0


def test_celery_started_by_the_path_of_the_package_loads_this_app(project: Path, env: dict[str, str]) -> None:
    """A worker that Celery restarts on SIGHUP starts this way too: without -P, and without the word `celery`."""
    for words in (["-P", str(command.PROGRAM), "celery"], [str(command.PROGRAM)]):
        shown = subprocess.run(
            [sys.executable, *words, "-A", "workers", "report"],
            env={**env, "PYTHONPATH": str(project)},
            cwd=project,
            capture_output=True,
            text=True,
        )
        assert shown.returncode == 0, shown.stderr
        assert "mirrorneuron_lists" in shown.stdout


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, r"__main__.py: No such file or directory; .* incomplete"),
        ({"__main__.py": command.MARK}, r"__init__.py: No such file or directory"),
        (
            {"__main__.py": command.MARK, "__init__.py": "theirs = 1"},
            r"__init__.py: another distribution has overwritten",
        ),
        (
            {"__main__.py": "theirs = 1", "__init__.py": command.MARK},
            r"__main__.py: another distribution has overwritten",
        ),
    ],
)
def test_an_installation_without_our_package_is_reported(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(MirrorNeuronError, match=problem):
        command._check_program(tmp_path / "__main__.py")


def test_the_checked_files_of_this_installation_are_ours() -> None:
    command._check_program(command.PROGRAM)
    assert os.path.samefile(command.PROGRAM, Path(__file__).parents[2] / "workers" / "__main__.py")


def test_a_worker_imports_neither_the_other_commands_of_celery_nor_their_plugins(env: dict[str, str]) -> None:
    """They take a third of its start and of its memory."""
    source = f"""
import atexit, runpy, sys
sys.argv = [{str(command.PROGRAM)!r}, "celery", "-A", "workers", "worker", "--help"]
unused = ("celery.bin.celery", "flower", "tornado", "click_repl", "prompt_toolkit", "rich", "typer")
atexit.register(lambda: print("IMPORTED", [name for name in unused if name in sys.modules]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    shown = subprocess.run([sys.executable, "-P", "-c", source], env=env, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "--prefetch-multiplier" in shown.stdout
    assert shown.stdout.endswith("IMPORTED []\n")


def test_a_worker_with_a_wrong_option_ends_with_2(env: dict[str, str]) -> None:
    words = ["celery", "-A", "workers", "worker", "--unheard-of"]
    ended = subprocess.run(
        [sys.executable, "-P", str(command.PROGRAM), *words], env=env, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "--unheard-of" in ended.stderr
