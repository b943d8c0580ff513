"""What runs on the nodes. `celery -A workers worker` finds the Celery app here.

Read in this order: tasks -> visit -> step, agents/ -> announce -> attempts, runners/, modules -> keeper, node.

The app is made on first use: a module agent's child process imports this package too, and has no need of Celery.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("workers.tasks").app
