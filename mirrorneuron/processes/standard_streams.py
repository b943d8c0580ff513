"""Standard streams that a process was started without.

Python sets `sys.stdout` to None if descriptor 1 is closed, and the next file or socket that is opened gets the number.
"""

from __future__ import annotations

import os
import sys
from typing import Final, Literal, TextIO

#: A read of stdin finds its end, a write to stdout fails with EBADF (its caller must know), one to stderr is dropped.
_FLAGS: Final = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)


def open_missing() -> None:
    """Open /dev/null for each of the descriptors 0, 1 and 2 that is closed. Call it before anything else is opened.

    Idempotent.
    """
    for number, flags in enumerate(_FLAGS):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")


def _stream(number: int, mode: Literal["r", "w"]) -> TextIO:
    return open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)
