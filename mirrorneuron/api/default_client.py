"""The job API as functions, on a default client that reads the environment at the first call, not at the import."""

from __future__ import annotations

from typing import Final

from mirrorneuron.api.client import Client


class DefaultClient(Client):
    """A client that reads its settings at the first call that needs them. Raises SettingsError there."""

    def __init__(self) -> None:
        self._settings = None
        self._parts = None

    def __reduce__(self) -> str:
        """Pickle by name, so that a process pool can be given one of the functions below."""
        return "default_client"


default_client: Final = DefaultClient()

run_manifest = default_client.run_manifest
wait_for_job = default_client.wait_for_job
async_result = default_client.async_result
inspect_job = default_client.inspect_job
job_manifest = default_client.job_manifest
inspect_agents = default_client.inspect_agents
events = default_client.events
stream_events = default_client.stream_events
inspect_nodes = default_client.inspect_nodes
list_jobs = default_client.list_jobs
job_details = default_client.job_details
cluster_overview = default_client.cluster_overview
pause = default_client.pause
resume = default_client.resume
cancel = default_client.cancel
send_message = default_client.send_message
retry = default_client.retry
why = default_client.why
logs = default_client.logs
dead_letters = default_client.dead_letters
replay = default_client.replay
cleanup_jobs = default_client.cleanup_jobs
