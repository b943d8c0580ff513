"""`mn agent list`."""

from __future__ import annotations

from mirrorneuron.cli import output, runtime
from mirrorneuron.cli.options import JobId, Json

COLUMNS = ("agent", "type", "status", "mail", "processed", "node", "error")


def list_agents(job: JobId, json: Json = False) -> None:
    """List the agents of a job, in manifest order."""
    agents = runtime.client().inspect_agents(job)
    if json:
        output.document(agents)
        return
    rows = (
        (
            agent["agent_id"],
            agent["agent_type"] if agent["type"] == "generic" else f"{agent['agent_type']}/{agent['type']}",
            agent["status"],
            agent["mailbox_depth"],
            agent["processed_messages"],
            agent["assigned_node"],
            agent["last_error"],
        )
        for agent in agents
    )
    output.table(COLUMNS, rows)
