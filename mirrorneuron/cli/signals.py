"""The signals that end a foreground command: INT (Ctrl-C), TERM and HUP."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupting(numbers: Iterable[signal.Signals] = ENDING, *, once: bool = False) -> Iterator[None]:
    """Raise KeyboardInterrupt for each of *numbers* within the block.

    With *once* only the first signal raises; later ones are ignored, so that they do not interrupt the cleanup.
    A signal that was ignored stays ignored: `nohup` ignores HUP, and a shell's `&` may ignore INT.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if once:
            ignore()
        raise KeyboardInterrupt

    previous = {number: signal.getsignal(number) for number in _not_ignored(numbers)}
    try:
        for number in previous:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore() -> None:
    """Ignore the signals ENDING until `interrupting` handles them again."""
    for number in _not_ignored(ENDING):
        signal.signal(number, _do_nothing)


def _not_ignored(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Used instead of SIG_IGN: child processes do not inherit it, and `_not_ignored` can tell the two apart."""
