"""`mn`, warm: a process that has imported the command line once forks for each command that is run.

Such a command is a process of its own, with words, environment and streams of its own, and it ends as processes do.
It only need not import first what all of them import, which takes longer than most of them run.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from celery.platforms import set_pdeathsig

from mirrorneuron.cli import main
from mirrorneuron.cli.command_table import COMMANDS, Entry, Group

ROOT = Path(__file__).parents[2]
SIZE = 4  # bytes of a number on the wire
#: What commands import as they go. What looks at its environment when it is imported (Typer's help) is not among it.
LATER = (
    *("celery.app.amqp", "celery.app.events", "celery.worker.state", "kombu.transport.redis"),
    *(
        "mirrorneuron.api.default_client",
        "mirrorneuron.dispatch.result_backend",
        "rich.columns",
        "rich.markdown",
        "rich.panel",
        "rich.table",
    ),
)


class WarmMn:
    """Runs commands one after the other."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                preexec_fn=lambda: set_pdeathsig("SIGKILL"),
            )

    def run(self, words: Sequence[str], env: Mapping[str, str], stdin: bytes) -> subprocess.CompletedProcess[str]:
        """Run `mn` with *words* to its end."""
        order = json.dumps({"words": words, "env": dict(env)}).encode()
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            head = len(order).to_bytes(SIZE, "big")
            socket.send_fds(self._link, [head], [given.fileno(), out.fileno(), err.fileno()])
            self._link.sendall(order)
            code = int.from_bytes(self._link.recv(SIZE, socket.MSG_WAITALL), "big", signed=True)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(["mn", *words], code, out.read().decode(), err.read().decode())

    def close(self) -> None:
        self._link.close()
        self._process.wait()


def modules() -> Iterator[str]:
    """Where the commands are."""
    for found in COMMANDS.values():
        for entry in found.table.values() if isinstance(found, Group) else [found]:
            assert isinstance(entry, Entry)
            yield f"mirrorneuron.cli.commands.{entry.target.partition(':')[0]}"


def serve(link: socket.socket) -> None:
    """Fork for each order, and answer with the exit code. This returns in the children, which are to carry it out."""
    while True:
        head, streams, _, _ = socket.recv_fds(link, SIZE, 3)
        if not head:
            sys.exit()
        order = json.loads(link.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
        if not (pid := os.fork()):
            break
        for stream in streams:
            os.close(stream)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        link.sendall(code.to_bytes(SIZE, "big", signed=True))
    link.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["mn", *order["words"]]


if __name__ == "__main__":
    for name in (*modules(), *LATER):
        import_module(name)
    gc.freeze()  # else each child would look through all that was imported when it ends
    serve(socket.socket(fileno=int(sys.argv[1])))
    main()
