"""End running commands at once when this process dies, however it dies.

A small shell sleeps at the other end of a pipe. When this process is gone the pipe ends, and the shell kills the
process groups that stand in a file which the two share. The other ways were measured or weighed, and lost:

- `prctl(PR_SET_PDEATHSIG)` in a `preexec_fn` makes every start a fork instead of a vfork (15 ms instead of 1 ms in a
  process of 300 MB) and runs Python between fork and exec of a threaded process, where it may deadlock;
- `setpriv --pdeathsig` costs 1.5 ms a start and is not everywhere;
- both kill one process only, not the children of a shell, on Linux only, and also when just the *thread* ends that
  started the command;
- telling the shell each group through the pipe wakes it twice a run, which took 0.3 ms each time on two cores.

What is lost between a start and its line in the file, the next life of the node finds (`MIRROR_NEURON_RUN_MARKER`).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_WATCH: Final = """
trap '' HUP INT TERM
cd /
exec 3<&1 1>/dev/null
read -r nothing
while read -r group <&3; do
    [ -z "$group" ] || kill -s KILL -- "-$group"
done
"""


class DeathWatch:
    """One shell for a process, started with its first command and again if it is lost."""

    def __init__(self) -> None:
        self._pipe = -1  #: written to by nobody: its end is the signal
        self._file = -1
        self._reset()

    def _reset(self) -> None:
        for fd in (self._pipe, self._file):
            if fd >= 0:
                os.close(fd)
        self._pipe = self._file = -1
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._length = 0  #: of the file, which never shrinks: one write replaces all of it
        self._pid = 0

    @contextmanager
    def guard(self, group: int) -> Iterator[None]:
        """Have process group *group* killed should this process die before the block ends."""
        # Out of descriptors or processes, there is no watch: the run is worth more than the watch over it.
        with self._lock, suppress(OSError):
            self._groups.add(group)
            if not self._awake():
                self._start()
            self._write()
        try:
            yield
        finally:
            with self._lock, suppress(OSError):
                self._groups.discard(group)
                self._write()

    def forget(self) -> None:
        """In a forked child: let go of the parent's pipe, or its end would not be seen while the child lives."""
        self._reset()  # the lock too: a thread that exists in the parent only may hold it

    def _write(self) -> None:
        text = "".join(f"{group}\n" for group in sorted(self._groups))
        self._length = max(self._length, len(text))
        os.pwrite(self._file, text.ljust(self._length).encode(), 0)

    def _awake(self) -> bool:
        try:
            return self._pid != 0 and os.waitpid(self._pid, os.WNOHANG)[0] == 0
        except ChildProcessError:
            return False

    def _start(self) -> None:
        if self._file < 0:
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pid, self._pipe = 0, -1  # should the next lines fail, nothing must remain of the last shell
        read_end, self._pipe = os.pipe()
        try:
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _WATCH],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, read_end, 0),
                    (os.POSIX_SPAWN_DUP2, self._file, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setpgroup=0,  # Ctrl-C on a terminal is for the node
            )
        finally:
            os.close(read_end)


DEATH_WATCH: Final = DeathWatch()
os.register_at_fork(after_in_child=DEATH_WATCH.forget)
