"""What the store still knows of a job's bundle."""

from __future__ import annotations

from mirrorneuron.client import Client
from mirrorneuron.plan import Plan, make_plan


def plan_of(client: Client, job_id: str) -> Plan:
    """The plan of a job. Raises as `job_manifest` does."""
    return make_plan(client.job_manifest(job_id))
