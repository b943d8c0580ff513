"""`mn dashboard`: Flower for our Celery app. It shows tasks under their shadow names, `<graph>.<node>`."""

from __future__ import annotations

import sys

from mirrorneuron import embedded
from mirrorneuron.cli import output, target
from mirrorneuron.cli.dashboard_address import ADDRESS, PORT, Address, Port, check_free, token_of, url
from mirrorneuron.cli.dashboard_server import serve
from mirrorneuron.cli.options import Json
from mirrorneuron.dispatch.celery_app import make_app
from mirrorneuron.processes.private_memory import keep_private


def dashboard(address: Address = ADDRESS, port: Port = PORT, json: Json = False) -> None:
    """Serve the dashboard (Flower) until Ctrl-C.

    The printed address holds a token, which every page needs unless a login is set (FLOWER_BASIC_AUTH, FLOWER_AUTH).
    With --json the address is printed as one JSON document before the dashboard starts.
    """
    keep_private()
    place = target.find()
    place.client().inspect_nodes()  # raises RuntimeUnavailable before anything is started
    check_free(address, port)
    if place.embedded:
        embedded.hold()
    token = token_of(place.settings)
    where = url(address, port, token)
    output.document({"url": where}) if json else output.line(f"dashboard at {where} (Ctrl-C stops it)")
    sys.stdout.flush()
    serve(make_app(place.settings), [f"--port={port}", "--logging=error"], address, token)
