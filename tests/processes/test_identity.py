"""The identity of a process: the same for every observer, and never that of another process with the same pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mirrorneuron.processes import identity
from mirrorneuron.processes.identity import Process
from tests.support.waiting import wait_until

IGNORES_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
HOUR_S = 3_600


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as started:
        yield started
        started.kill()


@pytest.fixture
def fake_proc(monkeypatch, tmp_path) -> Path:
    """A copy of what `/proc` says about this process, which `identity` and `psutil` read in its place."""
    if sys.platform != "linux":
        pytest.skip("there is no /proc")
    for name in (f"{os.getpid()}/stat", "stat", "sys/kernel/random/boot_id"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(f"/proc/{name}", tmp_path / name)
    monkeypatch.setattr(identity, "PROC", tmp_path)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    return tmp_path


def test_a_running_process_is_alive(sleeper):
    found = identity.find(sleeper.pid)
    assert found is not None
    assert found.pid == sleeper.pid
    assert identity.alive(found)


def test_a_pid_without_a_process_has_no_identity():
    assert identity.find(2**22 + 1) is None
    assert not identity.alive(None)


def test_a_zombie_is_not_alive():
    """A process that has ended and was not waited for still has an entry and a pid."""
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    found = identity.find(child.pid)
    assert child.stdout is not None
    with child.stdout:
        child.stdout.read()
    wait_until(lambda: not identity.alive(found))
    assert identity.find(child.pid) is None
    assert child.wait() == 0


@pytest.mark.parametrize("born", ["", "Thu Nov 26 20:00:00 2026", "5f1c0e6e-0000-4000-8000-000000000000/1"])
def test_a_reused_pid_is_neither_alive_nor_ended(sleeper, born):
    """The record has the pid of a process that started at another time."""
    recorded = Process(pid=sleeper.pid, born=born)
    assert not identity.alive(recorded)
    assert not identity.end(recorded, 0)
    assert sleeper.poll() is None


def test_another_process_sees_the_same_identity(sleeper):
    """Also with another time zone and language."""
    program = f"from mirrorneuron.processes import identity; print(identity.find({sleeper.pid}).model_dump_json())"
    environment = {**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert Process.model_validate_json(shown.stdout) == identity.find(sleeper.pid)


def test_the_identity_does_not_change_with_the_wall_clock(fake_proc):
    """`psutil.Process.create_time` does: if it no longer does, `psutil` can replace what `identity` reads itself."""
    before, created = identity.find(os.getpid()), psutil.Process(os.getpid()).create_time()
    assert before is not None
    boot_s = int(psutil.boot_time())
    text = (fake_proc / "stat").read_text()
    (fake_proc / "stat").write_text(text.replace(f"btime {boot_s}", f"btime {boot_s + HOUR_S}"))
    assert identity.find(os.getpid()) == before
    assert psutil.Process(os.getpid()).create_time() == pytest.approx(created + HOUR_S)


def test_the_same_pid_and_start_after_a_reboot_is_another_process(fake_proc):
    before = identity.find(os.getpid())
    (fake_proc / "sys/kernel/random/boot_id").write_text("5f1c0e6e-0000-4000-8000-000000000000\n")
    assert identity.find(os.getpid()) is not None
    assert not identity.alive(before)


def test_a_name_that_looks_like_a_state_is_not_read_as_one(fake_proc):
    before = identity.find(os.getpid())
    stat = fake_proc / str(os.getpid()) / "stat"
    head, _, rest = stat.read_text().rpartition(")")
    stat.write_text(f"{head.partition('(')[0]}(a) Z 1 (b){rest}")
    assert identity.find(os.getpid()) == before


def test_a_process_is_ended_by_term(sleeper):
    found = identity.find(sleeper.pid)
    assert identity.end(found, 10)
    assert sleeper.wait() == -signal.SIGTERM
    assert not identity.end(found, 10)


def test_a_process_that_ignores_term_is_killed_with_its_group():
    program = f"import subprocess, sys; child = subprocess.Popen(['sleep', '600']); print(child.pid); {IGNORES_TERM}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        member = identity.find(int(leader.stdout.readline()))
        leader.stdout.readline()
        assert identity.end(identity.find(leader.pid), 0)
        assert leader.wait() == -signal.SIGKILL
        wait_until(lambda: not identity.alive(member))


def test_the_group_of_another_leader_is_not_killed():
    """A process that does not lead its group is killed alone: the group is the one that runs this test."""
    with subprocess.Popen([sys.executable, "-c", IGNORES_TERM], stdout=subprocess.PIPE) as member:
        assert member.stdout is not None
        member.stdout.readline()
        assert os.getpgid(member.pid) == os.getpgid(0)
        assert identity.end(identity.find(member.pid), 0)
        assert member.wait() == -signal.SIGKILL
