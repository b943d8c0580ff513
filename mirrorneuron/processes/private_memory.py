"""Keep the memory and the environment of a process from other processes of the same user."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def keep_private() -> None:
    """Let only root read the memory, environment and descriptors of this process. Does nothing except on Linux.

    Commands and modules run as the worker's user, and `/proc/PID/environ` holds the store's password. Processes that
    this one forks are private too; a program that it executes is not. There are no core dumps. `/proc/PID/stat`,
    `status` and `cmdline` stay readable, so the process can be found by its pid and its command line.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
