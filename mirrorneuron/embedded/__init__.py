"""The embedded server: a real Valkey of this user's own, on a machine where no server is set up.

It outlives whoever started it and keeps its data between runs. All of it is in one folder, see `home()`:

    state.json    `State`: port, password and the processes; its mtime is the last use
    lock          flock, held by whoever changes what runs
    server.lock   flock, held by the server itself through an inherited descriptor: one server for one folder
    server.conf   written at every start
    data/         the append-only file
    *.log         what the processes (server, node, watcher) said

The *watcher* is a small process beside the server: it starts a server that crashed again, and ends the nodes
and the server when nothing has happened for ten minutes.
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
    started: bool  #: this call started it; False: it ran already
    node_pid: int | None  #: a node that `run` started and that still lives


def start(data_dir: Path | None = None, *, idle_s: float = IDLE_S) -> EmbeddedServer:
    """Make sure that the server and its watcher run, and return the server once it answers.

    Idempotent, also when several processes call it at once: one starts the server, all get the same. Counts as use.
    Raises RuntimeUnavailable.
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
    """Return the URL of the running embedded server, or None. Starts nothing; counts as use."""
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
        pass  # it is ours and will answer once its data is loaded
    except redis.RedisError:
        return None
    with suppress(FileNotFoundError):
        os.utime(folder / "state.json")
    return state.url


def adopt_node(pid: int, data_dir: Path | None = None) -> None:
    """Record a node that the caller started, so that idleness and `down` end it too.

    Raises ProcessLookupError when no process has *pid*, RuntimeUnavailable when no embedded server was ever started.
    """
    node = identity.find(pid)
    if node is None:
        raise ProcessLookupError(f"no process {pid}")
    with changing(located(data_dir)) as folder:
        state = known(folder)
        write(folder, state.model_copy(update={"nodes": (*filter(identity.alive, state.nodes), node)}))


def ensure_node(argv: Sequence[str], data_dir: Path | None = None, *, env: Mapping[str, str] | None = None) -> int:
    """Return the pid of the recorded node, starting *argv* as a detached process when none lives.

    Safe when several processes call it at once. The node writes to `node.log` and runs in the data folder.
    """
    with changing(located(data_dir)) as folder:
        state = known(folder)
        for node in filter(identity.alive, state.nodes):
            return node.pid
        node = spawn(argv, folder, "node.log", env=env)
        write(folder, state.model_copy(update={"nodes": (node,)}))
        return node.pid


def hold(data_dir: Path | None = None) -> None:
    """Let nothing count as idle while the calling process lives (for `up` and the dashboard)."""
    myself = identity.find(os.getpid())
    assert myself is not None
    with changing(located(data_dir)) as folder:
        state = known(folder)
        holders = {*filter(identity.alive, state.holders), myself}
        write(folder, state.model_copy(update={"holders": tuple(holders)}))


def down(data_dir: Path | None = None) -> list[str]:
    """End the recorded nodes, the watcher and the server, in this order; return what was ended ("node", ...).

    Blocks until they are gone, which takes as long as a node's running commands, or its grace for them. Data stays.
    """
    folder = located(data_dir)
    if not (folder / "state.json").exists():
        return []
    with changing(folder):
        return end(folder, nodes=True)


def stop(data_dir: Path | None = None) -> bool:
    """End the server (and its watcher), not the nodes. Returns False when it was not running."""
    folder = located(data_dir)
    if not (folder / "state.json").exists():
        return False
    with changing(folder):
        return "server" in end(folder, nodes=False)


def _forget_server(folder: Path) -> None:
    """Strike a dead server from the record, unless somebody is changing it just now."""
    with suppress(RuntimeUnavailable), changing(folder, 0):
        state = read(folder)
        if state and not identity.alive(state.server):
            write(folder, state.model_copy(update={"server": None}))


def _spawn_watcher(folder: Path, idle_s: float) -> Process:
    source = str(Path(__file__).resolve().parents[2])  # so that it also starts from a checkout
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    argv = [sys.executable, "-m", "mirrorneuron.embedded.watcher", str(folder), "--idle-seconds", str(idle_s)]
    return spawn(argv, folder, "watcher.log", env={**os.environ, "PYTHONPATH": path})
