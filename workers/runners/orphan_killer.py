"""Kill running commands at once when this process dies, for whatever reason.

A small shell reads from a pipe. When this process dies the pipe closes, and the shell kills the process groups listed
in a file that both processes have open. The alternatives were measured or considered, and rejected:

- `prctl(PR_SET_PDEATHSIG)` in a `preexec_fn` makes every start a fork instead of a vfork (15 ms instead of 1 ms in a
  process of 300 MB) and runs Python between fork and exec in a threaded process, which may deadlock;
- `setpriv --pdeathsig` costs 1.5 ms per start and is not installed everywhere;
- both work on Linux only, kill one process but not the children of a shell, and also act when only the *thread* ends
  that started the command;
- writing each group to the pipe wakes the shell twice per run, which took 0.3 ms each time on two cores.

A command whose worker dies before the command's line is in the file becomes an orphan. The next start of the worker
kills it (found by `MIRROR_NEURON_RUN_MARKER`).
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
    """The shell of this process: started with the first command, and restarted if it has ended."""

    def __init__(self) -> None:
        self._pipe = -1  #: nothing is written to it: its closing is the signal
        self._file = -1
        self._reset()

    def _reset(self) -> None:
        for fd in (self._pipe, self._file):
            if fd >= 0:
                os.close(fd)
        self._pipe = self._file = -1
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._length = 0  #: of the file, which never shrinks: one write replaces its whole contents
        self._pid = 0

    @contextmanager
    def guard(self, group: int) -> Iterator[None]:
        """Kill process group *group* if this process dies before the block ends."""
        # Without free descriptors or processes the command runs unguarded, which is better than not at all.
        with self._lock, suppress(OSError):
            self._groups.add(group)
            if not self._is_running():
                self._start()
            self._write()
        try:
            yield
        finally:
            with self._lock, suppress(OSError):
                self._groups.discard(group)
                self._write()

    def forget(self) -> None:
        """In a forked child: close the parent's pipe. Else the pipe stays open after the parent's death."""
        self._reset()  # the lock too: a thread of the parent may hold it

    def _write(self) -> None:
        text = "".join(f"{group}\n" for group in sorted(self._groups))
        self._length = max(self._length, len(text))
        os.pwrite(self._file, text.ljust(self._length).encode(), 0)

    def _is_running(self) -> bool:
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
        self._pid, self._pipe = 0, -1  # if the next lines fail, nothing of the last shell must remain
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
                setpgroup=0,  # Ctrl-C in the terminal must not reach it
            )
        finally:
            os.close(read_end)


DEATH_WATCH: Final = DeathWatch()
os.register_at_fork(after_in_child=DEATH_WATCH.forget)
