"""`mn agent list`."""

from __future__ import annotations

from typing import Any

from mirrorneuron.cli import output, target
from mirrorneuron.cli.options import JobId, Json
from mirrorneuron.job import AgentSnapshot

COLUMNS = ("agent", "type", "status", "mail", "processed", "node", "error")


def list_agents(job: JobId, json: Json = False) -> None:
    """List the agents of a job, in manifest order."""
    agents = target.client().inspect_agents(job)
    if json:
        output.document(agents)
        return
    output.table(COLUMNS, map(row, agents))


def row(agent: AgentSnapshot) -> tuple[Any, ...]:
    """Return an agent's row of the table."""
    return (
        agent["agent_id"],
        agent["agent_type"] if agent["type"] == "generic" else f"{agent['agent_type']}/{agent['type']}",
        agent["status"],
        agent["mailbox_depth"],
        agent["processed_messages"],
        agent["assigned_node"],
        agent["last_error"],
    )
