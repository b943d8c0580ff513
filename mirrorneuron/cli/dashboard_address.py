"""Where the dashboard is reached: its address, port and token."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from typing import Annotated
from urllib.parse import urlencode

import typer

from mirrorneuron.settings import Settings

Address = Annotated[str, typer.Option("--address", metavar="IP", help="Listen on this address.")]
Port = Annotated[int, typer.Option("--port", metavar="N", min=1, max=65_535, help="Listen on this port.")]

ADDRESS = "127.0.0.1"
PORT = 5555
LOGINS = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH", "FLOWER_UNAUTHENTICATED_API")


def token_of(settings: Settings) -> str:
    """The token that the dashboard asks for: the setting, or a new one. "" if Flower has a login or is open to all."""
    if any(os.environ.get(name, "").lower() not in ("", "0", "false", "no") for name in LOGINS):
        return ""
    return settings.dashboard_token or secrets.token_urlsafe(24)


def url(address: str, port: int, token: str) -> str:
    query = f"?{urlencode({'token': token})}" if token else ""
    host = "127.0.0.1" if address in ("", "0.0.0.0", "::") else address  # noqa: S104 - compared, not bound
    return (f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/") + query


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
