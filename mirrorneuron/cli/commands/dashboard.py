"""`mn dashboard`: Flower for our Celery app. It shows tasks under their shadow names, `<graph>.<node>`."""

from __future__ import annotations

import errno
import socket
from typing import Annotated

import typer

from mirrorneuron import embedded
from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import Json
from mirrorneuron.dispatch.celery_app import make_app

Address = Annotated[str, typer.Option("--address", metavar="IP", help="Listen on this address; there is no login.")]
Port = Annotated[int, typer.Option("--port", metavar="N", min=1, max=65_535, help="Listen on this port.")]

ADDRESS = "127.0.0.1"
PORT = 5555


def dashboard(address: Address = ADDRESS, port: Port = PORT, json: Json = False) -> None:
    """Serve the dashboard (Flower) until Ctrl-C.

    With --json the address is printed as one JSON document before the dashboard starts.
    """
    place = target.find()
    place.client().inspect_nodes()  # raises RuntimeUnavailable before anything is started
    check_free(address, port)
    if place.embedded:
        embedded.hold()
    where = url(address, port)
    output.document({"url": where}) if json else output.line(f"dashboard at {where}; Ctrl-C stops it")
    make_app(place.settings).start(["flower", f"--address={address}", f"--port={port}", "--logging=error"])


def url(address: str, port: int) -> str:
    host = "127.0.0.1" if address in ("", "0.0.0.0", "::") else address  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def check_free(address: str, port: int) -> None:
    """Raise BadParameter when the port of this address cannot be listened on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            why = "is in use: choose another port" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise typer.BadParameter(f"port {port} of {address} {why}", param_hint="--port") from None
