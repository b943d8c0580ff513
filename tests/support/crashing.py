"""The workers' Celery app with an injected fault: `FAULT` names a point to kill the worker at, or a lasting fault.

A kill hits the whole worker at once, like a power cut. A kill or a stuck task happens once: in the process that
creates the file `FAULT_ONCE` first.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mirrorneuron.dispatch.chains import Chains
from mirrorneuron.store.scripts import Scripts
from workers import visit
from workers.recovery import sweeper, task_watchdog
from workers.recovery.reminders import Reminders
from workers.tasks import app
from workers.visit import Visit

__all__ = ["app"]

AN_HOUR_S = 3600


def die() -> None:
    os.killpg(0, signal.SIGKILL)


def get_stuck() -> None:
    threading.Event().wait()


def once(what: Callable[[], None]) -> None:
    try:
        Path(os.environ["FAULT_ONCE"]).touch(exist_ok=False)
    except FileExistsError:
        return
    what()


def wrap(
    owner: Any, name: str, *, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> None:
    """Do something once, before or after a call of a method or of a module's function."""
    method = getattr(owner, name)

    def faulty(*args: Any, **kwargs: Any) -> Any:
        if before:
            once(before)
        result = method(*args, **kwargs)
        if after:
            once(after)
        return result

    setattr(owner, name, faulty)


def call_twice(owner: type, name: str) -> None:
    """Make each call twice, as if the reply to the first one had been lost."""
    method: Callable[..., Any] = getattr(owner, name)

    def faulty(*args: Any, **kwargs: Any) -> Any:
        method(*args, **kwargs)
        return method(*args, **kwargs)

    setattr(owner, name, faulty)


def drop_some() -> None:
    """Drop every other task."""
    method, count = Chains.publish, 0

    def faulty(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count % 2:
            method(*args, **kwargs)

    setattr(Chains, "publish", faulty)  # noqa: B010


def shift_clock(by_s: float) -> None:
    clock, clock_ns = time.time, time.time_ns
    time.time = lambda: clock() + by_s
    time.time_ns = lambda: clock_ns() + int(by_s * 1e9)


match os.environ.get("FAULT"):
    case "claimed":
        wrap(Visit, "_run_and_commit", before=die)
    case "ran":
        wrap(visit, "attempt", after=die)
    case "before_commit":
        wrap(Scripts, "commit", before=die)
    case "after_commit":
        wrap(Scripts, "commit", after=die)
    case "before_early_commit":
        wrap(Visit, "_commit_early", before=die)
    case "after_early_commit":
        wrap(Visit, "_commit_early", after=die)
    case "before_publish":
        wrap(Chains, "publish", before=die)
    case "after_publish":
        wrap(Chains, "publish", after=die)
    case "gets_stuck":
        wrap(Chains, "publish", before=get_stuck)
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

sweeper.Reminders = partial(Reminders, first_wait_s=0.3)  # type: ignore[assignment,attr-defined]  # re-announce soon
