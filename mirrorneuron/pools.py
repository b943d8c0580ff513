"""Names of pools and of their Celery queues."""

from __future__ import annotations

import re
from typing import Final

DEFAULT_POOL: Final = "default"
LIGHT: Final = "light"  # the pool of routers, aggregators and sensors: one Celery queue, no slots
_POOL: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def pool_problem(name: str) -> tuple[str, str]:
    """The problem with *name* as the pool of an executor or module, and a hint; both are "" for a valid name."""
    if not _POOL.fullmatch(name):
        return "is not a valid pool name", "use 1 to 64 letters, digits, `.`, `_` or `-`"
    if name == LIGHT:
        return "is reserved for routers, aggregators and sensors", "choose another pool"
    return "", ""


def worker_command(pool: str, slots: int = 1) -> str:
    """The command that starts a node for *pool* on which a run of *slots* has room."""
    words = "" if pool in (LIGHT, DEFAULT_POOL) else f" --pool {pool}"
    return f"mn worker{words}{f' --slots {slots}' if slots > 1 else ''}"


def pool_of(namespace: str, queue_name: str) -> str | None:
    """The pool of a Celery queue of *namespace*, None for any other queue. The inverse of `queue`."""
    if queue_name == queue(namespace, LIGHT):
        return LIGHT
    pool = queue_name.removeprefix(queue(namespace, ""))
    return pool if pool != queue_name and not pool_problem(pool)[0] else None


def queue(namespace: str, pool: str) -> str:
    """The Celery queue of a pool."""
    return f"{namespace}.{LIGHT}" if pool == LIGHT else f"{namespace}.pool.{pool}"
