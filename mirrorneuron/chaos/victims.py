"""Find the processes that a strike of each kind may kill or stop now."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mirrorneuron.chaos import process_tree
from mirrorneuron.chaos.graphs import MARK
from mirrorneuron.chaos.process_tree import Seen
from mirrorneuron.chaos.schedule import Kind
from mirrorneuron.chaos.stage import Stage
from mirrorneuron.processes.groups import kill_group

_NAME = re.compile(r" -n (\S+)")


@dataclass(frozen=True, slots=True)
class Victim:
    """A process or process group that can be killed."""

    name: str
    pid: int
    kill: Callable[[], None]


def on_nodes(kind: Kind, stage: Stage) -> list[Victim]:
    """Return the running nodes, workers, pool children, commands or module children, in a fixed order."""
    nodes = [node for node in stage.nodes if node.alive]
    if kind is Kind.NODE:
        return [Victim(f"node {node.name}", node.pid, node.kill) for node in nodes]
    below = [seen for node in nodes for seen in process_tree.beneath(node.pid)]
    match kind:
        case Kind.WORKER:
            return [_single(f"worker {_name(seen)}", seen) for seen in below if seen.depth == 1]
        case Kind.CHILD:
            return _pool_children(below)
        case Kind.HANG:
            return on_nodes(Kind.WORKER, stage) + on_nodes(Kind.CHILD, stage)
        case Kind.COMMAND:
            return [_group(f"command {seen.pid}", seen) for seen in below if seen.leads and _is_command(seen)]
        case Kind.MODULE:
            return [_group(f"module {seen.pid}", seen) for seen in below if seen.leads and "module_child" in seen.words]
        case _:
            return []


def _pool_children(below: list[Seen]) -> list[Victim]:
    """Return the busy processes of the workers' pools; all of them if none is busy on any node."""
    names = {seen.pid: _name(seen) for seen in below if seen.depth == 1}
    children = [seen for seen in below if seen.depth == 2 and names[seen.parent]]
    at_work = {seen.parent for seen in below if _is_command(seen) or "module_child" in seen.words}
    busy = [seen for seen in children if seen.pid in at_work] or children
    return [_single(f"child {seen.pid} of {names[seen.parent]}", seen) for seen in busy]


def _is_command(seen: Seen) -> bool:
    """Is it the command of a run? The mark is compared with the end: queue names of workers begin like the mark."""
    return seen.words.rstrip().endswith(f" {MARK}")


def _name(worker: Seen) -> str:
    found = _NAME.search(worker.words)
    return found[1] if found else str(worker.pid)


def _single(name: str, seen: Seen) -> Victim:
    return Victim(name, seen.pid, partial(process_tree.kill, seen.pid))


def _group(name: str, seen: Seen) -> Victim:
    return Victim(name, seen.pid, partial(kill_group, seen.group))
