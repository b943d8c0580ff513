"""Signals to a whole process group."""

from __future__ import annotations

import os
import signal
from contextlib import suppress


def kill_group(group: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send signal *number* to every process of *group*. A group that has already ended is not an error."""
    with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM if only zombies are left in the group
        os.killpg(group, number)
