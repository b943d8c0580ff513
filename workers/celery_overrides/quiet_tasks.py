"""Log no line for each task: Celery's lines about one wake-up call take longer than a short run of an agent."""

from __future__ import annotations

import logging
from typing import Any, Final

from celery import signals

#: what logs "Task ... received" and "Task ... succeeded". Source: celery 5.7 `worker/strategy.py`, `app/trace.py`
LOGGERS: Final = ("celery.worker.strategy", "celery.app.trace")


def log_tasks_at_debug_only() -> None:
    """From level INFO on, these loggers log warnings and errors only."""

    def quiet(loglevel: int, **_: Any) -> None:
        if loglevel > logging.DEBUG:
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.WARNING)

    signals.after_setup_logger.connect(quiet, weak=False)
