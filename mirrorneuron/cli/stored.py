"""What the store still knows of a job's bundle."""

from __future__ import annotations

from mirrorneuron.client import Client
from mirrorneuron.connection import reaching
from mirrorneuron.errors import NotFound
from mirrorneuron.job import JobMap
from mirrorneuron.manifest import Manifest
from mirrorneuron.plan import Plan, make_plan


def manifest_of(client: Client, job: JobMap) -> Manifest:
    """The manifest that *job* runs. Raises NotFound when its time is over, RuntimeUnavailable."""
    store = client._live_parts().store
    with reaching(client.settings.redis_url, job["job_id"]):
        try:
            raw, _ = store.bundles.manifest(job["manifest_ref"]["digest"])
        except LookupError as error:
            raise NotFound(f"job {job['job_id']!r}: {error}") from error
    return Manifest.from_dict(raw)


def plan_of(client: Client, job: JobMap) -> Plan:
    """The plan of *job*. Raises as `manifest_of` does."""
    return make_plan(manifest_of(client, job))
