"""Dramatiq with worker processes of one thread each, and its result backend on Redis."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks import harness, work
from benchmarks.side import RESULT_S, SLOTS, URL_VARIABLE

URL = os.environ[URL_VARIABLE]
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True))
dramatiq.set_broker(broker)
WAIT: dict[str, Any] = {"block": True, "timeout": RESULT_S * 1000}


@dramatiq.actor
def step(value: dict[str, Any]) -> dict[str, Any]:
    return work.step(value)


@dramatiq.actor
def join(values: list[dict[str, Any]]) -> dict[str, Any]:
    return {"messages": values, "count": len(values), "last_message": values[-1]}


@dramatiq.actor
def command(value: dict[str, Any]) -> str:
    return work.run_command(value)


@contextmanager
def running(url: str) -> Iterator[PeerDramatiq]:
    worker = (sys.executable, "-m", "dramatiq", __name__, "-p", str(SLOTS), "-t", "1")
    with harness.started(worker, harness.environment(**{URL_VARIABLE: url})) as process:
        peer = PeerDramatiq(process.pid)
        peer.chain(0)()
        yield peer


class PeerDramatiq:
    """As `side.Side`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def chain(self, job: int) -> Callable[[], object]:
        running = _chain(job)
        return lambda: work.check(running.get_result(**WAIT)["n"], job + work.STEPS)

    def fan(self, job: int, width: int) -> None:
        source = step.send(work.body(job)).get_result(**WAIT)  # neither a pipeline nor a callback hands on the results
        steps = dramatiq.group([step.message(source) for _ in range(width)]).run()
        joined = join.send(list(steps.get_results(**WAIT)))
        work.check(joined.get_result(**WAIT)["count"], width)

    def command(self, job: int) -> Callable[[], object]:
        message = command.send(work.body(job))
        return lambda: work.check(message.get_result(**WAIT), work.PRINTED)

    def ended(self, job: int) -> Callable[[], object]:
        running = _chain(job)
        running.get_result(**WAIT)
        return lambda: running.get_result(**WAIT)


def _chain(job: int) -> Any:
    return dramatiq.pipeline([step.message(work.body(job)), step.message(), step.message()]).run()
