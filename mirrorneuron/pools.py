"""Names of pools, and of their Celery queues."""

from __future__ import annotations

import re
from typing import Final

DEFAULT_POOL: Final = "default"
LIGHT: Final = "light"  # the pool of routers, aggregators and sensors: it has a queue, but no slots to wait for
_POOL: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def pool_problem(name: str) -> tuple[str, str]:
    """Why executors can have no pool *name*, and a hint; the first is "" when they can."""
    if not _POOL.fullmatch(name):
        return "is no name of a pool", "1 to 64 letters, digits, `.`, `_` or `-`"
    if name == LIGHT:
        return "is reserved for routers, aggregators and sensors", "choose another pool"
    return "", ""


def queue(namespace: str, pool: str) -> str:
    """The Celery queue of a pool."""
    return f"{namespace}.{LIGHT}" if pool == LIGHT else f"{namespace}.pool.{pool}"
