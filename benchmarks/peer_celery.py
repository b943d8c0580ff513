"""Plain Celery with a prefork pool; Redis is its broker and its result backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, chain, group
from celery.exceptions import TimeoutError

from benchmarks import harness, work
from benchmarks.side import RESULT_S, SLOTS, URL_VARIABLE

URL = os.environ[URL_VARIABLE]
app = Celery("peer", broker=URL, backend=URL, set_as_current=False)
app.conf.broker_connection_retry_on_startup = True


@app.task
def step(value: dict[str, Any]) -> dict[str, Any]:
    return work.step(value)


@app.task
def join(values: list[dict[str, Any]]) -> dict[str, Any]:
    return {"messages": values, "count": len(values), "last_message": values[-1]}


@app.task
def command(value: dict[str, Any]) -> str:
    return work.run_command(value)


@contextmanager
def running(url: str) -> Iterator[PeerCelery]:
    worker = (sys.executable, "-m", "celery", "-A", __name__, "worker", "-c", str(SLOTS))
    with harness.started(worker, harness.environment(**{URL_VARIABLE: url})) as process:
        harness.until(lambda: app.control.ping(timeout=0.5))
        yield PeerCelery(process.pid)


class PeerCelery:
    """As `side.Side`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def chain(self, job: int) -> Callable[[], object]:
        result = chain(step.s(work.body(job)), step.s(), step.s()).apply_async()
        return lambda: work.check(_get(result)["n"], job + work.STEPS)

    def fan(self, job: int, width: int) -> None:
        canvas = chain(step.s(work.body(job)), group(step.s() for _ in range(width)), join.s())
        work.check(_get(canvas.apply_async())["count"], width)

    def command(self, job: int) -> Callable[[], object]:
        result = command.delay(work.body(job))
        return lambda: work.check(_get(result), work.PRINTED)

    def ended(self, job: int) -> Callable[[], object]:
        result = chain(step.s(work.body(job)), step.s(), step.s()).apply_async()
        _get(result)
        return lambda: app.AsyncResult(result.id).get(timeout=RESULT_S)


def _get(result: Any) -> Any:
    """Wait with Celery's API. It misses a push once in some thousand waits; a second call finds the result."""
    try:
        return result.get(timeout=10)
    except TimeoutError:
        return result.get(timeout=RESULT_S)
