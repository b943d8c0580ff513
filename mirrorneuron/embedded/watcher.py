"""The watcher process of the embedded server.

The watcher restarts a server that crashed. It stops the nodes and the server when they have been idle for a while: no
live job, no submission, no `start` or `find`, no holder. It also stops them when their folder is deleted, because no
other process can find them then. Run as `python -m mirrorneuron.embedded.watcher FOLDER`.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from contextlib import closing
from pathlib import Path

import redis

from mirrorneuron.embedded.launcher import connect, end, end_processes, launch
from mirrorneuron.embedded.state_file import IDLE_S, State, changing, read
from mirrorneuron.errors import RuntimeUnavailable
from mirrorneuron.processes import identity
from mirrorneuron.settings import Settings

logger = logging.getLogger(__name__)

CHECK_S = 5.0  #: between two checks


class Watcher:
    """Decides when the server is idle. Time is an argument, in seconds of a monotonic clock."""

    def __init__(self, folder: Path, idle_s: float, namespace: str) -> None:
        self._folder = folder
        self._idle_s = idle_s
        self._namespace = namespace
        self._seen: State | None = None  # the state at the last tick
        self._last_activity: object = None
        self._idle_since = 0.0

    def tick(self, now: float) -> bool:
        """Check once; return False when the watcher is done: everything is stopped, or another watcher is recorded."""
        if not self._folder.exists():  # taking its lock would create the folder
            self._end_forgotten(None)
            return False
        with changing(self._folder, math.inf):
            state = read(self._folder)
            if state is None or state.watcher is None or state.watcher.pid != os.getpid():
                self._end_forgotten(state)
                return False
            if not identity.alive(state.server):
                state = _restart(self._folder, state)
            self._seen = state
            activity = _activity(self._folder, state, self._namespace)
            if activity is None or activity != self._last_activity:
                self._last_activity, self._idle_since = activity, now
            elif now - self._idle_since >= self._idle_s:
                ended = end(self._folder, nodes=True)
                logger.info("idle for %g s: stopped %s", self._idle_s, ", ".join(ended))
                return False
            return True

    def _end_forgotten(self, state: State | None) -> None:
        """Stop the processes of the last tick that *state* lacks: the folder or state.json was deleted or replaced."""
        if self._seen is None:
            return
        known = {state.server, *state.nodes} if state else set()
        nodes = tuple(node for node in self._seen.nodes if node not in known)
        server = None if self._seen.server in known else self._seen.server
        if ended := end_processes(self._seen.model_copy(update={"nodes": nodes, "server": server})):
            logger.warning("%s was deleted: stopped %s", self._folder / "state.json", ", ".join(ended))


def watch(folder: Path, idle_s: float) -> None:
    """Run the watcher of *folder* until it is done. Blocks."""
    watcher = Watcher(folder, idle_s, Settings.load().redis_namespace)
    while watcher.tick(time.monotonic()):
        time.sleep(min(CHECK_S, idle_s / 4))


def _activity(folder: Path, state: State, namespace: str) -> object | None:
    """Return a value that changes with each use, or None while the server is in use or does not answer."""
    if any(identity.alive(holder) for holder in state.holders):
        return None
    try:
        with closing(connect(state)) as client:
            live = client.scard(f"{namespace}:jobs:live")
            newest = client.zrevrange(f"{namespace}:jobs", 0, 0)
    except redis.RedisError:
        return None
    return None if live else (newest, (folder / "state.json").stat().st_mtime_ns)


def _restart(folder: Path, state: State) -> State:
    """Restart a server that has crashed; if the restart fails, stop the nodes and raise RuntimeUnavailable."""
    logger.warning("the server has exited: restarting it")
    try:
        return launch(folder, state)
    except RuntimeUnavailable:
        end(folder, nodes=True)
        raise


def main() -> None:
    """Run as the watcher: `python -m mirrorneuron.embedded.watcher FOLDER`."""
    parser = argparse.ArgumentParser(prog="mirrorneuron.embedded.watcher")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_S)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    watch(chosen.folder, chosen.idle_seconds)


if __name__ == "__main__":
    main()
