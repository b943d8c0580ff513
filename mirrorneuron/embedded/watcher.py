"""The watcher: a small process beside the embedded server.

It starts a server that crashed again, and ends the nodes and the server when nothing has happened for a while:
no live job, no submission, no `start` or `find`, no holder. It also ends them when somebody deletes their folder, since
nobody else could find them then. Run as `python -m mirrorneuron.embedded.watcher FOLDER`.
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

TICK_S = 5.0  #: between two looks


class Watcher:
    """Decides when everything is idle. Time is an argument: seconds of any clock that only goes forward."""

    def __init__(self, folder: Path, idle_s: float, namespace: str) -> None:
        self._folder = folder
        self._idle_s = idle_s
        self._namespace = namespace
        self._seen: State | None = None  # what was recorded when we last looked
        self._last_sign: object = None
        self._quiet_since = 0.0

    def tick(self, now: float) -> bool:
        """Look once; return False when the watching is over: all has been ended, or another took over."""
        if not self._folder.exists():  # taking its lock would create it again
            self._end_forgotten(None)
            return False
        with changing(self._folder, math.inf):
            state = read(self._folder)
            if state is None or state.watcher is None or state.watcher.pid != os.getpid():
                self._end_forgotten(state)
                return False
            if not identity.alive(state.server):
                state = _revive(self._folder, state)
            self._seen = state
            sign = _sign_of_life(self._folder, state, self._namespace)
            if sign is None or sign != self._last_sign:
                self._last_sign, self._quiet_since = sign, now
            elif now - self._quiet_since >= self._idle_s:
                ended = end(self._folder, nodes=True)
                logger.info("nothing happened for %g s: ended %s", self._idle_s, ", ".join(ended))
                return False
            return True

    def _end_forgotten(self, state: State | None) -> None:
        """End what was recorded and is not in *state*: its folder or its record was deleted or made anew."""
        if self._seen is None:
            return
        known = {state.server, *state.nodes} if state else set()
        nodes = tuple(node for node in self._seen.nodes if node not in known)
        server = None if self._seen.server in known else self._seen.server
        if ended := end_processes(self._seen.model_copy(update={"nodes": nodes, "server": server})):
            logger.warning("%s was deleted: ended %s", self._folder / "state.json", ", ".join(ended))


def watch(folder: Path, idle_s: float) -> None:
    """Be the watcher of *folder* until the watching is over. Blocks."""
    watcher = Watcher(folder, idle_s, Settings.load().redis_namespace)
    while watcher.tick(time.monotonic()):
        time.sleep(min(TICK_S, idle_s / 4))


def _sign_of_life(folder: Path, state: State, namespace: str) -> object | None:
    """Return something that changes with every use, or None while the server is in use or cannot be asked."""
    if any(identity.alive(holder) for holder in state.holders):
        return None
    try:
        with closing(connect(state)) as client:
            live = client.scard(f"{namespace}:jobs:live")
            newest = client.zrevrange(f"{namespace}:jobs", 0, 0)
    except redis.RedisError:
        return None
    return None if live else (newest, (folder / "state.json").stat().st_mtime_ns)


def _revive(folder: Path, state: State) -> State:
    """Start a server that died under its nodes again; if that cannot be done, end the nodes and raise."""
    logger.warning("the server is gone: starting it again")
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
