"""What ends a command that runs in the foreground: Ctrl-C, and TERM and HUP likewise."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupting(*, once: bool = False) -> Iterator[None]:
    """Let each of ENDING raise KeyboardInterrupt within the block; *once*: the first one, so that nothing interrupts
    the way out.

    A signal that is ignored stays ignored: nohup has done that to HUP, and a shell's `&` may have done it to INT.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if once:
            ignore()
        raise KeyboardInterrupt

    heeded = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore(numbers: Iterable[signal.Signals] = ENDING) -> None:
    """Ignore *numbers* from now on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
