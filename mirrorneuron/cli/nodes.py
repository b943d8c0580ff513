"""`mn node list`."""

from __future__ import annotations

from mirrorneuron.cli import output, runtime
from mirrorneuron.cli.options import Json

COLUMNS = ("node", "pools in use", "host", "pid", "started", "heartbeat", "version")


def list_nodes(json: Json = False) -> None:
    """List the nodes that are alive, with their pools."""
    nodes = runtime.client().inspect_nodes()
    if json:
        output.document(nodes)
        return
    rows = (
        (
            node["name"] + (" (stopping)" if node["stopping"] else ""),
            ", ".join(f"{name} {pool['in_use']}/{pool['slots']}" for name, pool in node["pools"].items()),
            node["host"],
            node["pid"],
            node["started_at"],
            node["last_heartbeat_at"],
            node["versions"].get("mirrorneuron"),
        )
        for node in nodes
    )
    output.table(COLUMNS, rows, spare=("version", "started"))
