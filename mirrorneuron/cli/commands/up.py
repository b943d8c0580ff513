"""`mn up`: a server, a node and the dashboard on this machine, in the foreground."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer
from celery.platforms import set_pdeathsig

from mirrorneuron import embedded
from mirrorneuron.cli import output, signals, target
from mirrorneuron.cli.dashboard_address import ADDRESS, PORT, Address, Port, check_free, token_of, url
from mirrorneuron.cli.exits import Code, complain
from mirrorneuron.cli.options import Json
from mirrorneuron.cli.target import Place
from mirrorneuron.embedded.launcher import NODE_STOP_MARGIN_S
from mirrorneuron.processes.private_memory import keep_private
from mirrorneuron.processes.reaper import reap_orphans
from mirrorneuron.settings import PREFIX
from mirrorneuron.text import without_password

NODE: Final = (*target.MN, "worker", "--log-level", "warning")
DASHBOARD: Final = (*target.MN, "dashboard")
REAP_S: Final = 2.0  # between two searches for orphans


def up(
    with_dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="Also serve the dashboard.")
    ] = True,
    address: Address = ADDRESS,
    port: Port = PORT,
    json: Json = False,
) -> None:
    """Run a server (unless one is reachable), a node and the dashboard until Ctrl-C.

    Ctrl-C stops what this command has started. With --json one document holds the server's URL, the node's pid and the
    dashboard's address.
    """
    keep_private()
    if with_dashboard:
        check_free(address, port)
    with signals.interrupting(once=True):
        place = target.find_or_start()
        children = Children(place.environment(), place.settings.stop_grace_seconds + NODE_STOP_MARGIN_S)
        try:
            token = token_of(place.settings)
            where = url(address, port, token) if with_dashboard else None
            _announce(place, _start(place, children), where, json=json)
            if where:
                command = (*DASHBOARD, "--address", address, "--port", str(port))
                children.start("dashboard", command, **{f"{PREFIX}DASHBOARD_TOKEN": token})
            children.wait()
        except KeyboardInterrupt:
            return
        finally:
            try:
                _stop(place, children)
            except KeyboardInterrupt:  # the first signal came after a child had ended; later signals are ignored
                _stop(place, children)
    if children.failed:
        complain(f"the {children.failed} exited with an error, see above")
        raise typer.Exit(Code.BUG)


def _start(place: Place, children: Children) -> int:
    """Start a node, unless the embedded server has one; return its pid. Raises RuntimeUnavailable."""
    if not place.embedded:
        place.client().inspect_nodes()  # raises before anything is started if the server is unreachable
        return children.start("node", NODE)
    embedded.hold()
    node_pid = embedded.start().node_pid
    if node_pid is None:
        node_pid = children.start("node", NODE)
        embedded.adopt_node(node_pid)
    return node_pid


def _stop(place: Place, children: Children) -> None:
    signals.ignore()  # a closed terminal sends several signals
    try:
        children.stop()
    finally:
        if place.started:
            embedded.stop()


def _announce(place: Place, node_pid: int, dashboard: str | None, *, json: bool) -> None:
    server = place.settings.redis_url
    if json:
        output.document({"redis_url": server, "embedded": place.embedded, "node_pid": node_pid, "dashboard": dashboard})
        sys.stdout.flush()
        return
    kind = " (embedded)" if place.embedded else ""
    output.fields(
        {
            "server": without_password(server) + kind,
            "node": f"pid {node_pid}",
            "dashboard": dashboard,
            "other programs": f"export {PREFIX}REDIS_URL={server}" if place.embedded else None,
        }
    )
    output.line("Ctrl-C stops what was started here.")


@dataclass
class Children:
    """Child processes in process groups of their own: the terminal's Ctrl-C does not reach them."""

    environment: Mapping[str, str]
    grace_s: float  #: time for a child to stop after SIGTERM
    failed: str = ""  #: the first child that exited with an error
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str, argv: Sequence[str], **variables: str) -> int:
        """Start a child with more environment *variables*; return its pid."""
        child = subprocess.Popen(
            argv,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it would repeat what `_announce` prints
            process_group=0,
            preexec_fn=lambda: set_pdeathsig("SIGKILL"),  # safe: no other thread holds a lock yet
        )
        self._children[name] = child
        threading.Thread(target=self._watch, args=(name, child), name=name, daemon=True).start()
        return child.pid

    def _watch(self, name: str, child: subprocess.Popen[bytes]) -> None:
        # SIGTERM comes from `mn down`: not a failure, even if the child had no handler yet and died of it.
        if child.wait() not in (0, -signal.SIGTERM) and not self._ended.is_set():
            self.failed = name
        self._ended.set()

    def wait(self) -> None:
        """Block until a child has exited. As process 1 of a container, reap what commands have left behind."""
        while not self._ended.wait(REAP_S):
            reap_orphans([child.pid for child in self._children.values()])

    def stop(self) -> None:
        """Send SIGTERM to the children and wait. A Ctrl-C meanwhile sends it again, which stops a node at once."""
        self._ended.set()
        for second in range(2):
            with suppress(KeyboardInterrupt), signals.interrupting((signal.SIGINT,)):
                alive = any(child.poll() is None for child in self._children.values())
                for child in self._children.values():
                    child.terminate()
                if alive and not second:
                    complain("stopping what was started here")
                for child in self._children.values():
                    child.wait(self.grace_s if not second else None)
                return
