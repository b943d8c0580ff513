"""Which child serves which message, and when children end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.modules import ROOT, WHO, Bundle, is_alive, output_of, pid_of
from workers.lifecycle.run_handle import RunHandle
from workers.modules.module_process import ModuleProcess
from workers.modules.pool import ModulePool


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_least_recently_used_child_makes_room(tmp_path: Path) -> None:
    pool = ModulePool(max_children=2)
    a, b, c = (Bundle(tmp_path / name, name).write("agent.py", WHO) for name in "abc")
    pids = {each.digest: pid_of(pool, each) for each in (a, b, a, c)}
    assert [is_alive(pids[name]) for name in "abc"] == [True, False, True]
    pool.close()
    assert not any(is_alive(pid) for pid in pids.values())


def test_a_child_that_was_idle_too_long_ends_at_the_next_use(tmp_path: Path) -> None:
    clock = Clock()
    pool = ModulePool(clock=clock, idle_s=600)
    a, b = (Bundle(tmp_path / name, name).write("agent.py", WHO) for name in "ab")
    first = pid_of(pool, a)
    clock.now += 599
    assert pid_of(pool, a) == first
    clock.now += 601
    assert pid_of(pool, b)
    assert not is_alive(first)
    pool.close()


def test_a_child_without_questions_exits_by_itself() -> None:
    """So the memory of idle children comes back also on a node whose pool is never used again."""
    child = ModuleProcess("d", {}, None, lifetime_s=0.0, cap_bytes=1000)
    handle = RunHandle()
    with handle.wake_fd() as wake_fd:
        child.start_up(60.0, handle, wake_fd)
    while not child.ends_by_itself():
        pass  # each turn waits a second
    assert child.kill() == 0
    child.end()


def test_two_messages_of_one_bundle_at_once_get_a_child_each(pool: ModulePool, bundle: Bundle) -> None:
    """Each waits for the other: with one child this would never end."""
    for name in ("x", "y"):
        os.mkfifo(bundle.payloads / name)
    bundle.write(
        "agent.py",
        """
        import os
        class It(Agent):
            def handle(self, message, context):
                here = context.payloads_path
                ends = [open(here / name, mode) for name, mode in message.body]
                context.complete_job(os.getpid())
        """,
    )
    with ThreadPoolExecutor(2) as threads:
        bodies = ([["x", "r"], ["y", "w"]], [["x", "w"], ["y", "r"]])
        pids = [output_of(result) for result in threads.map(lambda body: bundle.run(pool, body), bodies)]
    assert len(set(pids)) == 2


def test_a_child_outlives_the_thread_that_first_needed_it(pool: ModulePool, bundle: Bundle) -> None:
    bundle.write("agent.py", WHO)
    pids: list[int] = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: pids.append(pid_of(pool, bundle)))
        thread.start()
        thread.join()
    assert pids[0] == pids[1]


def test_working_folders_go_with_their_children(tmp_path: Path, bundle: Bundle) -> None:
    pool = ModulePool(work_root=tmp_path / "work")
    bundle.write("agent.py", "class It(Agent):\n    def handle(self, m, c): open('mine', 'w').close()")
    assert bundle.run(pool).error is None
    assert [path.name for path in (tmp_path / "work").glob("*/*")] == ["mine"]
    deep = "import os\nclass It(Agent):\n    def handle(self, m, c):\n"
    bundle.write("deep.py", deep + "        for _ in range(1500): os.mkdir('a') or os.chdir('a')")
    assert bundle.run(pool, module="deep:It").error is None
    pool.close()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_new_pool_removes_abandoned_folders_but_no_folder_in_use(tmp_path: Path, bundle: Bundle) -> None:
    """A child's folder is locked by its node. Neither a kill nor the end of a worker leaves the time to remove it."""
    bundle.write("agent.py", "class It(Agent):\n    def handle(self, m, c): open('mine', 'w').close()")
    with node_program(bundle, "bundle.run(pool); print('there', flush=True); open(0).read()") as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "there\n"
        (folder,) = tmp_path.glob("mn-module-*")
        os.utime(folder, (0, 0))
        ModulePool(work_root=tmp_path)
        assert (folder / "mine").exists()
        os.utime(bundle.payloads)  # as young as a folder that is not locked yet
        node.kill()
        node.wait()
        ModulePool(work_root=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["payloads"]


def test_a_child_that_gets_no_folder_leaves_the_nodes_own_alone(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> str:
        raise OSError("the disk is full")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    pool = ModulePool()
    assert "the disk is full" in str(bundle.run(pool).error)
    assert [path.name for path in tmp_path.iterdir()] == ["payloads"]
    pool.close()


def test_a_forked_process_has_children_of_its_own(bundle: Bundle) -> None:
    """As in a prefork worker: the pool was used before the fork. The parent's child serves the parent alone."""
    bundle.write("agent.py", WHO)
    before, in_fork, after = program(
        bundle,
        """
        import os
        before = pid_of(pool, bundle)
        readable, writable = os.pipe()
        if os.fork() == 0:
            os.write(writable, str(pid_of(pool, bundle)).encode())
            pool.close()
            os._exit(0)
        os.close(writable)
        in_fork = int(os.read(readable, 100))
        os.wait()
        print(before, in_fork, pid_of(pool, bundle), flush=True)
        pool.close()
        """,
    )
    assert before == after != in_fork


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_children_die_with_their_node(bundle: Bundle) -> None:
    """Also a busy child, which never reads its socket again."""
    os.mkfifo(bundle.payloads / "fifo")
    bundle.write(
        "agent.py",
        """
        class It(Agent):
            def handle(self, message, context):
                with open(context.payloads_path / "fifo", "w"):
                    while True: pass
        """,
    )
    with node_program(bundle, "bundle.run(pool)") as node, open(bundle.payloads / "fifo") as held:
        node.kill()
        assert held.read() == ""  # the writer is gone


def node_program(bundle: Bundle, lines: str) -> subprocess.Popen[str]:
    """A separate process with a pool and the same bundle."""
    head = f"""
from pathlib import Path
from workers.modules.module_process import ModuleProcess
from workers.modules.pool import ModulePool
from workers.runners.protocol import RunHandle
from tests.support.modules import Bundle, pid_of
pool = ModulePool(work_root=Path({str(bundle.payloads.parent)!r}))
bundle = Bundle(Path({str(bundle.payloads)!r}))
"""
    words = [sys.executable, "-c", head + textwrap.dedent(lines)]
    return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def program(bundle: Bundle, lines: str) -> list[int]:
    with node_program(bundle, lines) as process:
        out, _ = process.communicate(timeout=100)
    return [int(word) for word in out.split()]
