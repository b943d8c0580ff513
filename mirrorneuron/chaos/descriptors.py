"""A worker that cannot open files: its processes have no file descriptor left. On Linux only."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Final

import psutil

from mirrorneuron.chaos import process_tree
from mirrorneuron.chaos.stage import Actor
from mirrorneuron.pools import DEFAULT_POOL

POSSIBLE: Final = sys.platform == "linux"
REFUSALS: Final = (b"no descriptors left", b"Too many open files")  #: in the log of a node


def take_from(node: Actor) -> int:
    """Let the processes of the pool worker of *node* open nothing more. Returns their number.

    What they have open stays open. A process that they start inherits the limit.
    """
    below = process_tree.beneath(node.pid)
    workers = {seen.pid for seen in below if seen.depth == 1 and f"-n {DEFAULT_POOL}@" in seen.words}
    pids = [seen.pid for seen in below if seen.pid in workers or (seen.depth == 2 and seen.parent in workers)]
    return sum(_take(pid) for pid in pids)


def give_back(node: Actor) -> None:
    """Let all processes of *node* open as much as the node itself may. No effect if it does not run."""
    if not node.alive:
        return
    most = psutil.Process(node.pid).rlimit(psutil.RLIMIT_NOFILE)
    for seen in process_tree.beneath(node.pid):
        with suppress(psutil.Error):
            psutil.Process(seen.pid).rlimit(psutil.RLIMIT_NOFILE, most)


def count_refused(node: Actor) -> int:
    """Return how often the log of *node* names this shortage."""
    said = node.log.read_bytes()
    return sum(map(said.count, REFUSALS))


def _take(pid: int) -> bool:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        _, hard = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), hard))
        return True
    return False
