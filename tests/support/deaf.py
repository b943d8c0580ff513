"""The nodes' Celery app with remote control commands that make a worker deaf.

Either its loop stands still for ever, or it goes on and takes no messages. The file *trace* says that it has begun.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from celery.worker.control import control_command

from workers.recovery import consumer_watchdog, sweeper
from workers.tasks import app

__all__ = ["app"]

consumer_watchdog.INTERVAL_S, consumer_watchdog.FAREWELL_S = 0.1, 0.5  # type: ignore[misc]
sweeper.FIRST_WAIT_MS = 300  # type: ignore[misc]  # it may have taken a message without a look at it


@control_command()
def become_deaf(_state: Any, trace: str) -> None:
    Path(trace).touch()
    threading.Event().wait()


@control_command()
def stop_listening(state: Any, trace: str) -> None:
    state.consumer.task_consumer.cancel()
    Path(trace).touch()
