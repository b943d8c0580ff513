"""Reap orphans: processes without a living parent become children of process 1, in a container the node itself."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress


def reap_orphans(own: Collection[int]) -> int:
    """Reap the ended children of this process except those in *own*; return how many there were. Does not block.

    A child of *own* that has ended is only looked at, so its exit code stays for its owner; the orphans behind it are
    reaped by the next call. Reap the children of *own* first. Does nothing on a system without `waitid`.
    """
    reaped = 0
    with suppress(ChildProcessError, AttributeError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in own:
                break
            os.waitpid(ended.si_pid, os.WNOHANG)
            reaped += 1
    return reaped
