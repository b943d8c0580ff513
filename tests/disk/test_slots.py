"""Pool slots are locked files: taken together, waited for in turn, and never lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorneuron.settings import Settings
from tests.support.waiting import wait_until
from workers.disk import slots as slots_module
from workers.disk.slots import NotEnoughSlots, Slots
from workers.runtime import worker_slots


def never() -> None:
    return None


def test_a_run_holds_as_many_slots_as_it_asks_for(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 4)
    with slots.taken(3, never):
        assert slots.in_use() == 3
        with slots.taken(1, never):
            assert slots.in_use() == 4
    assert slots.in_use() == 0


def test_more_slots_than_the_pool_has_are_refused_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(NotEnoughSlots, match="needs 3 slots, but its pool has only 2"),
        Slots(tmp_path, 2).taken(3, never),
    ):
        pass


def test_a_large_run_waits_for_small_ones_and_is_not_overtaken(tmp_path: Path) -> None:
    """Once it waits at the gate, a run that comes later has to wait behind it."""
    slots, order = Slots(tmp_path, 2), []
    waits = threading.Event()

    def run(name: str, count: int) -> None:
        with slots.taken(count, waits.set if name == "large" else never):
            order.append(name)

    with slots.taken(1, never):
        large = threading.Thread(target=run, args=("large", 2))
        large.start()
        waits.wait(30)
        small = threading.Thread(target=run, args=("small", 1))
        small.start()
        assert order == []
    large.join(30)
    small.join(30)
    assert order == ["large", "small"]


def test_a_process_forked_during_in_use_keeps_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker forks a pool process to replace a dead one while its heartbeat thread counts slots."""
    slots, tried, heirs = Slots(tmp_path, 1), slots_module._try, []

    def forked_meanwhile(opened: int, kind: int = fcntl.LOCK_EX) -> bool:
        taken = tried(opened, kind)
        heirs.append(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], pass_fds=(opened,)))
        return taken

    try:
        with monkeypatch.context() as patch:
            patch.setattr(slots_module, "_try", forked_meanwhile)
            assert slots.in_use() == 0
            with slots.taken(1, never):
                pass
        with slots.taken(1, lambda: "it would have to wait"):
            assert slots.in_use() == 1
    finally:
        for heir in heirs:
            heir.kill()
            heir.wait()


def test_a_wait_for_slots_ends_when_the_run_is_cancelled(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 1)
    with slots.taken(1, never), pytest.raises(TimeoutError), slots.taken(1, lambda: "cancelled"):
        pass
    assert slots.in_use() == 0


def test_a_killed_process_gives_its_slots_back(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 2)
    child = os.fork()
    if not child:
        with slots.taken(2, never):
            signal.pause()
    try:
        wait_until(lambda: slots.in_use() == 2)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert slots.in_use() == 0


#: A process that is started by a process of the pool, as a command is, and locks all files that it finds in a folder.
LOCK_ALL = """
import fcntl, os, signal, sys
for name in sys.argv[2:]:
    fcntl.flock(os.open(os.path.join(sys.argv[1], name), os.O_RDONLY | os.O_CREAT, 0o600), fcntl.LOCK_EX)
print("locked", flush=True)
signal.pause()
"""


@contextlib.contextmanager
def locked_by_a_command(folder: Path, *names: str) -> Iterator[None]:
    """A grandchild of this process, which is a process of the pool here."""
    shell = [sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"]
    command = subprocess.Popen(
        [*shell, sys.executable, "-c", LOCK_ALL, str(folder), *names], stdout=subprocess.PIPE, start_new_session=True
    )
    assert command.stdout is not None
    try:
        assert command.stdout.readline() == b"locked\n"
        yield
    finally:
        os.killpg(command.pid, signal.SIGKILL)
        command.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="the table of locks is Linux's")
def test_a_command_cannot_hold_the_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as the worker's user, so it can lock the files. The locks of other runs are respected."""
    monkeypatch.setattr(slots_module, "SUSPICIOUS_S", 0.1)
    slots = Slots(tmp_path, 3)
    looks: list[int] = []
    with locked_by_a_command(tmp_path, "gate", "0", "2"):
        with slots.taken(1, never), slots.taken(2, never):
            assert slots.in_use() == 3
            with pytest.raises(TimeoutError), slots.taken(1, lambda: looks.append(1) or len(looks) > 20):
                pass
        assert slots.in_use() == 0


@pytest.mark.parametrize("other", [{"redis_namespace": "two"}, {"redis_url": "redis://127.0.0.1:6379/1"}])
def test_two_clusters_on_one_machine_share_no_slots(tmp_path: Path, other: dict[str, str]) -> None:
    """Also where their workers have the same name and the same folder: the default is one folder for each user."""
    one, two = (
        worker_slots(Settings.load(temp_dir=tmp_path, **more), "default@box", "default") for more in ({}, other)
    )
    with one.taken(1, never):
        assert (one.in_use(), two.in_use()) == (1, 0)
