"""The workers' Celery app, whose threads can be stopped in the middle of their work until a process is forked.

A thread stops when the folder `FORKING` has a file with the thread's name, and creates the file `middle`. A process
that is forked after that writes to the file `forked` whether the thread was in the middle of its work.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirrorneuron.store.node_registry import Registry
from mirrorneuron.store.sweep_lease import SweepLease
from workers.lifecycle.fork_guard import FORKS
from workers.tasks import app

__all__ = ["PARTS", "app"]

#: name of a thread -> the method that it calls repeatedly
PARTS: dict[str, tuple[type, str]] = {
    "heartbeat": (Registry, "register"),
    "sweeper": (SweepLease, "take"),
    "watch": (Registry, "queue_length"),
}
MIDDLE = threading.Lock()
FORKED = threading.Event()


def stop_in(owner: Any, name: str, folder: Path) -> None:
    """Make a method stop when its thread is asked to, until a fork waits for the thread or has happened."""
    method: Callable[..., Any] = getattr(owner, name)

    def stopping(*args: Any, **kwargs: Any) -> Any:
        asked = folder / threading.current_thread().name
        if asked.exists():
            asked.unlink()
            with MIDDLE:
                FORKED.clear()
                (folder / "middle").touch()
                while not (FORKS.waiting or FORKED.is_set()):
                    time.sleep(0.01)
        return method(*args, **kwargs)

    setattr(owner, name, stopping)


def note(folder: Path) -> None:
    if (folder / "middle").exists():
        (folder / "noting").write_text("in the middle" if MIDDLE.locked() else "in between")
        (folder / "noting").rename(folder / "forked")


if "FORKING" in os.environ:
    FOLDER = Path(os.environ["FORKING"])
    for part in PARTS.values():
        stop_in(*part, FOLDER)
    os.register_at_fork(after_in_parent=FORKED.set, after_in_child=lambda: note(FOLDER))
