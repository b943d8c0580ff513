"""State that a worker process inherits or sets, and that the commands it starts must not inherit.

A command starts as a shell would start it: with default signal dispositions, no blocked signals, and the descriptors
0, 1 and 2 only (`subprocess` closes the others). The umask, the resource limits and the niceness stay those with which
the node was started: they belong to the administrator, and no part of a worker changes them.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


def clean_signals() -> None:
    """Replace each ignored signal by a handler that does nothing, and unblock all signals.

    The effect on this process is the same, but `exec` resets handlers to the default and keeps ignored signals ignored.
    A `preexec_fn` would do it for each command, at the cost of a fork instead of a vfork. `subprocess` itself restores
    SIGPIPE and SIGXFSZ, which Python ignores. Does nothing outside the main thread, where Python sets no handlers: in
    Celery's thread pool.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _do_nothing)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass
