"""`mn up`: everything on this machine, in the foreground."""

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
from mirrorneuron.cli.commands.dashboard import ADDRESS, PORT, Address, Port, check_free, url
from mirrorneuron.cli.exits import Code, complain
from mirrorneuron.cli.options import Json
from mirrorneuron.cli.target import Place
from mirrorneuron.settings import PREFIX
from mirrorneuron.text import without_password

SPARE_S: Final = 30.0  #: that the node takes to end, above the grace for its runs
NODE: Final = (*target.MN, "worker", "--log-level", "warning")
DASHBOARD: Final = (*target.MN, "dashboard")


def up(
    with_dashboard: Annotated[bool, typer.Option("--dashboard/--no-dashboard", help="Serve the dashboard too.")] = True,
    address: Address = ADDRESS,
    port: Port = PORT,
    json: Json = False,
) -> None:
    """Run a server (unless one answers), a node and the dashboard until Ctrl-C.

    Ctrl-C stops what it has started. With --json one document says where everything is.
    """
    if with_dashboard:
        check_free(address, port)
    where = url(address, port) if with_dashboard else None
    with signals.interrupting(once=True):
        place = target.find_or_start()
        family = Family(place.environment(), place.settings.stop_grace_seconds + SPARE_S)
        try:
            _announce(place, _start(place, family), where, json=json)
            if where:
                family.start("dashboard", (*DASHBOARD, "--address", address, "--port", str(port)))
            family.wait()
        except KeyboardInterrupt:
            return
        finally:
            try:
                _stop(place, family)
            except KeyboardInterrupt:  # the first signal, while the end of a child was ending us: no other one follows
                _stop(place, family)
    if family.failed:
        complain(f"the {family.failed} ended, see above")
        raise typer.Exit(Code.BUG)


def _start(place: Place, family: Family) -> int:
    """Start a node, unless the embedded server has one; return its pid. Raises RuntimeUnavailable."""
    if not place.embedded:
        place.client().inspect_nodes()  # a server that is away is told of before anything starts
        return family.start("node", NODE)
    embedded.hold()
    node_pid = embedded.start().node_pid
    if node_pid is None:
        node_pid = family.start("node", NODE)
        embedded.adopt_node(node_pid)
    return node_pid


def _stop(place: Place, family: Family) -> None:
    signals.ignore()  # a closed terminal sends more than one
    try:
        family.stop()
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
    output.line("Ctrl-C ends what was started here.")


@dataclass
class Family:
    """Child processes of ours, out of reach of the terminal's Ctrl-C."""

    environment: Mapping[str, str]
    grace_s: float  #: for a child that is asked to end
    failed: str = ""  #: the first child that ended by itself with an error
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str, argv: Sequence[str]) -> int:
        """Start a child; return its pid."""
        child = subprocess.Popen(
            argv,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it would tell what `_announce` tells
            process_group=0,
            preexec_fn=lambda: set_pdeathsig("SIGKILL"),  # safe: there is no other thread yet that holds a lock
        )
        self._children[name] = child
        threading.Thread(target=self._watch, args=(name, child), name=name, daemon=True).start()
        return child.pid

    def _watch(self, name: str, child: subprocess.Popen[bytes]) -> None:
        # Ended by `mn down` is no failure, also before it could say that it ends in peace.
        if child.wait() not in (0, -signal.SIGTERM) and not self._ended.is_set():
            self.failed = name
        self._ended.set()

    def wait(self) -> None:
        """Block until a child has ended."""
        self._ended.wait()

    def stop(self) -> None:
        """Ask the children to end, and wait; a Ctrl-C meanwhile asks again, which ends a node at once."""
        self._ended.set()
        for again in range(2):
            with suppress(KeyboardInterrupt), signals.interrupting((signal.SIGINT,)):
                alive = any(child.poll() is None for child in self._children.values())
                for child in self._children.values():
                    child.terminate()
                if alive and not again:
                    complain("ending what was started here")
                for child in self._children.values():
                    child.wait(self.grace_s if not again else None)
                return
