"""A warm `mn`: a process imports the command line once and forks for each command.

Each command still runs in a separate process, with its own arguments, environment and streams. The fork saves the
imports, which take longer than most commands run.
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
#: Modules that commands import late, except those that read the environment at import (Typer's help).
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
    """Runs commands one at a time."""

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
    """The names of the modules of the commands."""
    for found in COMMANDS.values():
        for entry in found.table.values() if isinstance(found, Group) else [found]:
            assert isinstance(entry, Entry)
            yield f"mirrorneuron.cli.commands.{entry.target.partition(':')[0]}"


def serve(link: socket.socket) -> None:
    """Fork for each request and reply with the exit code. Returns only in the children, which run the command."""
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
    gc.freeze()  # otherwise each child would scan all imported objects when it exits
    serve(socket.socket(fileno=int(sys.argv[1])))
    main()
