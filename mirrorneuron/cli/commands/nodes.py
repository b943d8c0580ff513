"""`mn node list`."""

from __future__ import annotations

from typing import Any

from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import Json
from mirrorneuron.job import NodeInfo

COLUMNS = ("node", "pools in use", "host", "pid", "started", "heartbeat", "version")
SPARE = ("version", "started")


def list_nodes(json: Json = False) -> None:
    """List the live nodes and their pools."""
    nodes = target.client().inspect_nodes()
    if json:
        output.document(nodes)
        return
    output.table(COLUMNS, map(row, nodes), SPARE)


def _unhealthy(node: NodeInfo) -> str:
    found = node.get("unhealthy")
    return f" (unhealthy: {found['reason']}, since {found['since']})" if found else ""


def row(node: NodeInfo) -> tuple[Any, ...]:
    """Return a node's row of the table."""
    return (
        node["name"] + (" (stopping)" if node["stopping"] else "") + _unhealthy(node),
        ", ".join(f"{name} {pool['in_use']}/{pool['slots']}" for name, pool in node["pools"].items()),
        node["host"],
        node["pid"],
        node["started_at"],
        node["last_heartbeat_at"],
        node["versions"].get("mirrorneuron"),
    )
