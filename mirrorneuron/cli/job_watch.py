"""Wait for the end of a job and show its progress. The wait is one call; background threads show the rest."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Final

import typer

from mirrorneuron.api.client import Client
from mirrorneuron.bundle.plan import Plan
from mirrorneuron.cli import output
from mirrorneuron.cli.exits import Code, complain
from mirrorneuron.cli.job_progress import Progress
from mirrorneuron.errors import MirrorNeuronError, RuntimeUnavailable
from mirrorneuron.job import JobMap
from mirrorneuron.pools import DEFAULT_POOL, LIGHT, worker_command

NODE_POLL_S: Final = 2.0  #: between two queries of the nodes
RECONNECT_S: Final = 1.0  #: before the events are read again after the store was unreachable
EVENTS_LAG_S: Final = 5.0  #: how long to wait for the last events after the job has ended


@dataclass(frozen=True, slots=True)
class MissingPoolHint:
    """What the user can do when no node serves a pool that the job needs."""

    light: str = ""  #: if it is one of the pools that `mn worker` serves by itself; "": the command that starts a node
    after_s: float = NODE_POLL_S  #: time before the hint is first shown


class JobWatch:
    """Follows one job in background threads. They end with the job or with the process."""

    def __init__(self, client: Client, job_id: str, plan: Plan, hint: MissingPoolHint) -> None:
        self.progress = Progress(job_id, len(plan.nodes))
        self._client = client
        self._slots = {pool: plan.slots(pool) for pool in sorted(plan.pools)}
        self._hint = hint
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="events", daemon=True)

    @contextmanager
    def running(self, *, follow: bool) -> Iterator[None]:
        """Query the nodes, and with *follow* the events, until the block is left."""
        threading.Thread(target=self._poll_nodes, name="nodes", daemon=True).start()
        if follow:
            self._follower.start()
        try:
            yield
            if follow:
                self._follower.join(EVENTS_LAG_S)
        finally:
            self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                after = self.progress.last["id"] if self.progress.last else None
                for event in self._client.stream_events(self.progress.job_id, after=after):
                    self.progress.note(event)
                return
            except RuntimeUnavailable:
                self._stop.wait(RECONNECT_S)
            except MirrorNeuronError:
                return  # `wait_for_job` raises it too

    def _poll_nodes(self) -> None:
        """Keep the progress' hint up to date; without a terminal, print each new hint once."""
        shown = ""
        wait_s = self._hint.after_s
        while not self._stop.wait(wait_s):
            wait_s = NODE_POLL_S
            hint = self._missing_pools()
            self.progress.hint = hint
            if hint and hint != shown and not output.on_terminal():
                shown = hint
                complain(hint)

    def _missing_pools(self) -> str:
        """Return a hint if no node serves a pool that the job needs, or the store is unreachable; else "".

        A node that has fewer slots than one run takes does not count.
        """
        try:
            nodes = self._client.inspect_nodes()
        except RuntimeUnavailable as error:
            return str(error)
        rows = [(pool, row["slots"]) for node in nodes for pool, row in node["pools"].items()]
        missing = [pool for pool, slots in self._slots.items() if not any(p == pool and n >= slots for p, n in rows)]
        if not missing:
            return ""
        names = [pool if self._slots[pool] == 1 else f"{pool} with {self._slots[pool]} slots" for pool in missing]
        text = self._hint.light if {LIGHT, DEFAULT_POOL}.issuperset(missing) else ""
        commands = dict.fromkeys(
            f"`{worker_command(pool, self._slots[pool])}`" for pool in missing if pool != LIGHT or len(missing) == 1
        )
        text = text or f"start one with {' and '.join(commands)}"
        return f"no node serves pool{'' if len(missing) == 1 else 's'} {', '.join(names)} yet: {text}"


def until_end(
    client: Client, job_id: str, plan: Plan, timeout_ms: float | None, *, json: bool, hint: MissingPoolHint
) -> JobMap:
    """Wait for *job_id* and return its final job map; show live progress on a terminal. Ctrl-C detaches.

    Raises what `wait_for_job` raises.
    """
    live = output.on_terminal() and not json
    watch = JobWatch(client, job_id, plan, hint)
    try:
        with watch.running(follow=live), _screen(watch.progress) if live else nullcontext():
            return client.wait_for_job(job_id, timeout_ms)
    except KeyboardInterrupt:
        sys.stdout.flush()
        complain(f"the job continues: mn wait {job_id}")
        raise typer.Exit(Code.INTERRUPTED) from None


def _screen(progress: Progress) -> AbstractContextManager[object]:
    shown: AbstractContextManager[object] = import_module("mirrorneuron.cli.terminal.job_screen").screen(progress)
    return shown
