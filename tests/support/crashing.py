"""The nodes' Celery app, spoilt: `SPOILT` names a point at which its worker is killed, or what goes wrong always.

Killing is done once, by whoever makes the file `SPOILT_ONCE` first, to the whole worker at once, as a power cut would;
and so is standing still.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.store.scripts import Scripts
from workers import visit
from workers.recovery import sweeper, task_watchdog
from workers.tasks import app
from workers.visit import Visit

__all__ = ["KILLING", "LASTING", "app"]

KILLING = ("claimed", "ran", "before_commit", "after_commit", "before_publish", "after_publish")
LASTING = ("calls_twice", "tasks_twice", "tasks_dropped", "clock_ahead", "clock_behind")
AN_HOUR_S = 3600


def die() -> None:
    os.killpg(0, signal.SIGKILL)


def stand_still() -> None:
    threading.Event().wait()


def once(what: Callable[[], None]) -> None:
    try:
        Path(os.environ["SPOILT_ONCE"]).touch(exist_ok=False)
    except FileExistsError:
        return
    what()


def wrap(
    owner: Any, name: str, *, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> None:
    """Do something once, before or after a method of a class, or a function of a module."""
    method = getattr(owner, name)

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        if before:
            once(before)
        result = method(*args, **kwargs)
        if after:
            once(after)
        return result

    setattr(owner, name, spoilt)


def call_twice(owner: type, name: str) -> None:
    """As if the reply to the first call had been lost."""
    method: Callable[..., Any] = getattr(owner, name)

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        method(*args, **kwargs)
        return method(*args, **kwargs)

    setattr(owner, name, spoilt)


def drop_some() -> None:
    """Lose every other task."""
    method, count = Chains.publish, 0

    def spoilt(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count % 2:
            method(*args, **kwargs)

    setattr(Chains, "publish", spoilt)  # noqa: B010


def shift_clock(by_s: float) -> None:
    clock, clock_ns = time.time, time.time_ns
    time.time = lambda: clock() + by_s
    time.time_ns = lambda: clock_ns() + int(by_s * 1e9)


match os.environ.get("SPOILT"):
    case "claimed":
        wrap(Visit, "_round", before=die)
    case "ran":
        wrap(visit, "attempt", after=die)
    case "before_commit":
        wrap(Scripts, "commit", before=die)
    case "after_commit":
        wrap(Scripts, "commit", after=die)
    case "before_publish":
        wrap(Chains, "publish", before=die)
    case "after_publish":
        wrap(Chains, "publish", after=die)
    case "stands_still":
        wrap(Chains, "publish", before=stand_still)
        task_watchdog.INTERVAL_S = 0.25  # type: ignore[misc]
    case "calls_twice":
        call_twice(Scripts, "_call")
    case "tasks_twice":
        call_twice(Chains, "publish")
    case "tasks_dropped":
        drop_some()
    case "clock_ahead":
        shift_clock(AN_HOUR_S)
    case "clock_behind":
        shift_clock(-AN_HOUR_S)

sweeper.FIRST_WAIT_MS = 300  # type: ignore[misc]  # so that what is lost is told of again soon
