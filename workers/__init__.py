"""The workers of runtime nodes. `celery -A workers worker` finds the Celery app here.

Read in this order: tasks -> visit -> agents/draft, agents/ -> claim_runs -> attempt, runners/, modules/ -> recovery/,
node/.

The app is created on first use: the supervisor of a node imports this package too, and does not need Celery.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__distribution__ = "mirrorneuron"  # `mn worker` reads this line: another distribution may install a package `workers`


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("workers.tasks").app
