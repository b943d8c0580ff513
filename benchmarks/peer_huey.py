"""Huey with worker processes. Its waits are woken (`notify_result`): otherwise they sleep for a tenth of a second."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huey import RedisHuey
from huey.api import chord

from benchmarks import harness, work
from benchmarks.side import RESULT_S, SLOTS, URL_VARIABLE

huey = RedisHuey("peer", url=os.environ[URL_VARIABLE], notify_result=True)


@huey.task()
def step(value: dict[str, Any]) -> dict[str, Any]:
    return work.step(value)


@huey.task()
def forward(value: dict[str, Any]) -> tuple[dict[str, Any]]:
    return (work.step(value),)  # the next task of a pipeline gets a tuple as its arguments, a dict as keywords


@huey.task()
def join(values: list[dict[str, Any]]) -> dict[str, Any]:
    return {"messages": values, "count": len(values), "last_message": values[-1]}


@huey.task()
def command(value: dict[str, Any]) -> str:
    return work.run_command(value)


@contextmanager
def running(url: str) -> Iterator[PeerHuey]:
    worker = (sys.executable, "-m", "huey.bin.huey_consumer", f"{__name__}.huey", "-k", "process", "-w", str(SLOTS))
    with harness.started(worker, harness.environment(**{URL_VARIABLE: url})) as process:
        peer = PeerHuey(process.pid)
        peer.chain(0)()
        yield peer


class PeerHuey:
    """As `side.Side`. A result is deleted when it is read."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def chain(self, job: int) -> Callable[[], object]:
        result = self._chain(job)
        return lambda: work.check(result.get(blocking=True, timeout=RESULT_S)["n"], job + work.STEPS)

    def fan(self, job: int, width: int) -> None:
        source = step(work.body(job)).get(blocking=True, timeout=RESULT_S)  # a pipeline cannot hold a chord
        joined = huey.enqueue(chord([step.s(source) for _ in range(width)], join.s()))
        work.check(joined.get(blocking=True, timeout=RESULT_S)["count"], width)

    def command(self, job: int) -> Callable[[], object]:
        result = command(work.body(job))
        return lambda: work.check(result.get(blocking=True, timeout=RESULT_S), work.PRINTED)

    def ended(self, job: int) -> Callable[[], object]:
        result = self._chain(job)
        result.get(blocking=True, timeout=RESULT_S, preserve=True)
        return lambda: huey.result(result.id, blocking=True, timeout=RESULT_S, preserve=True)

    def _chain(self, job: int) -> Any:
        """The result of the last of three steps."""
        return list(huey.enqueue(forward.s(work.body(job)).then(forward).then(step)))[-1]
