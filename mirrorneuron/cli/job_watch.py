"""Waiting for the end of a job while the user sees what happens. The wait is one call; all else decorates it."""

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

LOOK_S: Final = 2.0  #: between two looks at the nodes
AGAIN_S: Final = 1.0  #: after a store that did not answer
LAST_WORDS_S: Final = 2.0  #: what the followed events may lag behind the end


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do where no node serves a pool that the job needs."""

    text: str
    after_s: float = LOOK_S  #: not before


class JobWatch:
    """Follows one job in background threads, which end with it, or with the process."""

    def __init__(self, client: Client, job_id: str, plan: Plan, advice: Advice) -> None:
        self.progress = Progress(job_id, len(plan.nodes))
        self._client = client
        self._pools = set(plan.pools)
        self._advice = advice
        self._over = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="events", daemon=True)

    @contextmanager
    def running(self, *, follow: bool) -> Iterator[None]:
        """Look at the nodes, and with *follow* at the events, until the block is left."""
        threading.Thread(target=self._look, name="nodes", daemon=True).start()
        if follow:
            self._follower.start()
        try:
            yield
            if follow:
                self._follower.join(LAST_WORDS_S)
        finally:
            self._over.set()

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                after = self.progress.last["id"] if self.progress.last else None
                for event in self._client.stream_events(self.progress.job_id, after=after):
                    self.progress.note(event)
                return
            except RuntimeUnavailable:
                self._over.wait(AGAIN_S)
            except MirrorNeuronError:
                return  # the wait itself tells of it

    def _look(self) -> None:
        """Say once which pools no node serves, as long as that may be why nothing happens."""
        said = ""
        wait_s = self._advice.after_s
        while not self._over.wait(wait_s):
            wait_s = LOOK_S
            hint = self._why_nothing_happens()
            self.progress.hint = hint
            if hint and hint != said and not output.on_terminal():
                said = hint
                complain(hint)

    def _why_nothing_happens(self) -> str:
        try:
            served = {pool for node in self._client.inspect_nodes() for pool in node["pools"]}
        except RuntimeUnavailable as error:
            return str(error)
        missing = sorted(self._pools - served)
        names = f"pool{'' if len(missing) == 1 else 's'} {', '.join(missing)}"
        return f"no node serves {names} yet: {self._advice.text}" if missing else ""


def until_end(
    client: Client, job_id: str, plan: Plan, timeout_ms: float | None, *, json: bool, advice: Advice
) -> JobMap:
    """The final job map of *job_id*; on a terminal with live progress. Ctrl-C detaches: the job goes on.

    Raises what `wait_for_job` raises.
    """
    live = output.on_terminal() and not json
    watch = JobWatch(client, job_id, plan, advice)
    try:
        with watch.running(follow=live), _screen(watch.progress) if live else nullcontext():
            return client.wait_for_job(job_id, timeout_ms)
    except KeyboardInterrupt:
        sys.stdout.flush()
        complain(f"job goes on: mn wait {job_id}")
        raise typer.Exit(Code.INTERRUPTED) from None


def _screen(progress: Progress) -> AbstractContextManager[object]:
    shown: AbstractContextManager[object] = import_module("mirrorneuron.cli.terminal.job_screen").screen(progress)
    return shown
