"""The lines and tables of the monitor; the same for a terminal and a pipe."""

from __future__ import annotations

from typing import Final, TypeAlias

from mirrorneuron.cli.commands import agents, events, jobs, nodes
from mirrorneuron.cli.output import Section, Sections
from mirrorneuron.job import AgentSnapshot, AgentStatus, ClusterOverview, JobDetails

# The agents that need attention come first: a terminal may have no room for all agents of a job.
S: TypeAlias = AgentStatus
ORDER: Final = (S.ERROR, S.BUSY, S.RUNNING, S.QUEUED, S.PAUSED, S.READY, S.COMPLETED)


def of_cluster(view: ClusterOverview) -> Sections:
    """Return the number of jobs of each status, the queued tasks, the nodes, and the newest jobs."""
    counts = [f"{count} {status}" for status, count in view["counts"].items() if count]
    waiting = {name: pool["queued"] for node in view["nodes"] for name, pool in node["pools"].items() if pool["queued"]}
    queued = [f"{count} queued for {pool}" for pool, count in waiting.items()]
    return [
        f"jobs: {', '.join(counts) or 'none'}",
        f"tasks: {', '.join(queued) or 'none queued'}",
        Section(nodes.COLUMNS, [nodes.row(node) for node in view["nodes"]], nodes.SPARE)
        if view["nodes"]
        else "no node is running; start one: mn worker",
        *([Section(jobs.COLUMNS, [jobs.row(job) for job in view["jobs"]], jobs.SPARE)] if view["jobs"] else []),
    ]


def of_job(view: JobDetails) -> Sections:
    """Return the job, its newest events, and its agents."""
    job = view["job"]
    found: Sections = [f"{job['job_id']}: {job['status']}, updated {job['updated_at']}"]
    found += [events.line(event) for event in view["events"]]
    found.append(Section(agents.COLUMNS, [agents.row(agent) for agent in sorted(view["agents"], key=_urgency)]))
    return found


def _urgency(agent: AgentSnapshot) -> int:
    return ORDER.index(AgentStatus(agent["status"]))
