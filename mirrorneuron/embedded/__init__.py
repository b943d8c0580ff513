"""The embedded server: a Valkey server that MirrorNeuron starts for the current user when no server is configured.

The server outlives the process that started it and keeps its data between runs. All files are in one folder, `home()`:

    state.json    `State`: port, password and processes; its mtime is the time of the last use
    lock          flock, held while processes are started or stopped
    server.lock   flock, held by the server through an inherited descriptor: one server for one folder
    server.conf   written at each start
    data/         the append-only file
    *.log         the output of the server, the nodes and the watcher

The *watcher* is a separate process. It restarts a server that crashed, and stops the nodes and the server after ten
idle minutes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from mirrorneuron.embedded.launcher import comes_up, connect, end, launch, spawn
from mirrorneuron.embedded.state_file import IDLE_S, changing, home, known, located, read, write
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.processes import identity
from mirrorneuron.processes.identity import Process

__all__ = ["EmbeddedServer", "adopt_node", "down", "ensure_node", "find", "hold", "home", "start", "stop"]


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running embedded server."""

    url: str  #: with the password; works for redis-py, as Celery's broker and as its result backend
    pid: int
    data_dir: Path
    started: bool  #: True if this call started it, False if it was running
    node_pid: int | None  #: a recorded node that still runs


def start(data_dir: Path | None = None, *, idle_s: float = IDLE_S) -> EmbeddedServer:
    """Start the server and its watcher unless they run, and return the server once it answers.

    Idempotent, also for concurrent calls of several processes: one starts the server, all return the same server.
    Counts as use. Raises RuntimeUnavailable.
    """
    folder = located(data_dir)
    with changing(folder):
        state = read(folder)
        started = state is None or not comes_up(state)
        if state is None or started:
            state = launch(folder, state)
        if not identity.alive(state.watcher):
            state = state.model_copy(update={"watcher": _spawn_watcher(folder, idle_s)})
        write(folder, state)
    assert state.server is not None
    node = next((node.pid for node in state.nodes if identity.alive(node)), None)
    return EmbeddedServer(state.url, state.server.pid, folder, started, node)


def find(data_dir: Path | None = None) -> str | None:
    """Return the URL of the running embedded server, or None if none runs. Starts nothing. Counts as use."""
    folder = located(data_dir)
    state = read(folder)
    if state is None or state.server is None:
        return None
    if not identity.alive(state.server):
        _forget_server(folder)
        return None
    try:
        with closing(connect(state)) as client:
            client.ping()
    except redis.BusyLoadingError:
        pass  # the server accepted the password and answers once its data is loaded
    except redis.RedisError:
        return None
    with suppress(FileNotFoundError):
        os.utime(folder / "state.json")
    return state.url


def adopt_node(pid: int, data_dir: Path | None = None) -> None:
    """Record a node that the caller started, so that `down` and the idle timeout stop it too.

    Raises ProcessLookupError when no process has *pid*, RuntimeUnavailable when no embedded server was ever started.
    """
    node = identity.find(pid)
    if node is None:
        raise ProcessLookupError(f"no process has pid {pid}")
    with changing(located(data_dir)) as folder:
        state = known(folder)
        write(folder, state.model_copy(update={"nodes": (*filter(identity.alive, state.nodes), node)}))


def ensure_node(argv: Sequence[str], data_dir: Path | None = None, *, env: Mapping[str, str] | None = None) -> int:
    """Return the pid of a recorded node; if none runs, start *argv* as a detached process and record it.

    Safe for concurrent calls of several processes. The node writes to `node.log` and runs in the embedded server's
    folder.
    """
    with changing(located(data_dir)) as folder:
        state = known(folder)
        for node in filter(identity.alive, state.nodes):
            return node.pid
        node = spawn(argv, folder, "node.log", env=env)
        write(folder, state.model_copy(update={"nodes": (node,)}))
        return node.pid


def hold(data_dir: Path | None = None) -> None:
    """Suspend the idle timeout while the calling process runs (for `up`, the monitor and the dashboard)."""
    myself = identity.find(os.getpid())
    assert myself is not None
    with changing(located(data_dir)) as folder:
        state = known(folder)
        holders = {*filter(identity.alive, state.holders), myself}
        write(folder, state.model_copy(update={"holders": tuple(holders)}))


def down(data_dir: Path | None = None) -> list[str]:
    """Stop the recorded nodes, the watcher and the server, in this order; return what was stopped ("node", ...).

    Blocks until they have exited: at most until a node's running commands end or its grace period is over. The data
    is kept.
    """
    folder = located(data_dir)
    if not (folder / "state.json").exists():
        return []
    with changing(folder):
        return end(folder, nodes=True)


def stop(data_dir: Path | None = None) -> bool:
    """Stop the server and its watcher, but not the nodes. Return False if the server was not running."""
    folder = located(data_dir)
    if not (folder / "state.json").exists():
        return False
    with changing(folder):
        return "server" in end(folder, nodes=False)


def _forget_server(folder: Path) -> None:
    """Remove a dead server from state.json, unless another process holds the lock."""
    with suppress(RuntimeUnavailable), changing(folder, 0):
        state = read(folder)
        if state and not identity.alive(state.server):
            write(folder, state.model_copy(update={"server": None}))


def _spawn_watcher(folder: Path, idle_s: float) -> Process:
    source = str(Path(__file__).resolve().parents[2])  # so that the watcher also starts from a checkout
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    argv = [sys.executable, "-m", "mirrorneuron.embedded.watcher", str(folder), "--idle-seconds", str(idle_s)]
    return spawn(argv, folder, "watcher.log", env={**os.environ, "PYTHONPATH": path})
