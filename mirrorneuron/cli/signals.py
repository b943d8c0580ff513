"""What ends a command that runs in the foreground: Ctrl-C, and TERM and HUP likewise."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupting(numbers: Iterable[signal.Signals] = ENDING, *, once: bool = False) -> Iterator[None]:
    """Let each of *numbers* raise KeyboardInterrupt within the block; *once*: the first one, so that nothing interrupts
    the way out.

    A signal that is ignored stays ignored: nohup has done that to HUP, and a shell's `&` may have done it to INT.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if once:
            ignore()
        raise KeyboardInterrupt

    previous = {number: signal.getsignal(number) for number in _heeded(numbers)}
    try:
        for number in previous:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore() -> None:
    """Let none of ENDING do anything from now on, until `interrupting` says otherwise."""
    for number in _heeded(ENDING):
        signal.signal(number, _do_nothing)


def _heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Unlike SIG_IGN it leaves a mark by which we know our own doing, and no child inherits it."""
