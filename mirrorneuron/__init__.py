"""MirrorNeuron: run a graph of agents as one durable job, on Celery workers.

Read in this order: api.client; bundle.manifest, bundle.validate, bundle.load, bundle.plan; dispatch.chains; store.keys,
store/lua/, store.scripts, store.job_store; then on the nodes workers.tasks, workers.visit, workers.agents.

Names that need Celery or Redis are imported on first use, so that validating a bundle stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mirrorneuron.agent import Agent, Context
from mirrorneuron.errors import (
    AgentNotFound,
    BundleNotFound,
    Issue,
    JobExists,
    JobFailed,
    JobNotFound,
    JobStateError,
    ManifestError,
    MessageInvalid,
    MessageNotFound,
    MirrorNeuronError,
    NotFound,
    PayloadTooLarge,
    RecordDamaged,
    RuntimeUnavailable,
    SettingsError,
    WaitTimeout,
)
from mirrorneuron.message import Message
from mirrorneuron.processes.first_use import FIRST_USE

if TYPE_CHECKING:
    from mirrorneuron.api.client import Client
    from mirrorneuron.api.default_client import (
        async_result,
        cancel,
        cleanup_jobs,
        cluster_overview,
        dead_letters,
        events,
        inspect_agents,
        inspect_job,
        inspect_nodes,
        job_details,
        job_manifest,
        list_jobs,
        logs,
        pause,
        replay,
        resume,
        retry,
        run_manifest,
        send_message,
        stream_events,
        wait_for_job,
        why,
    )
    from mirrorneuron.bundle.load import JobBundle, validate_manifest
    from mirrorneuron.bundle.manifest import Manifest
    from mirrorneuron.diagnostics.job_diagnosis import Cause, Diagnosis
    from mirrorneuron.job import (
        AgentSnapshot,
        AgentStatus,
        ClusterOverview,
        DeadLetter,
        Event,
        EventType,
        JobDetails,
        JobMap,
        JobStatus,
        JobSummary,
        LogChunk,
        NodeInfo,
    )
    from mirrorneuron.settings import Settings

__all__ = [
    "Agent",
    "AgentNotFound",
    "AgentSnapshot",
    "AgentStatus",
    "BundleNotFound",
    "Cause",
    "Client",
    "ClusterOverview",
    "Context",
    "DeadLetter",
    "Diagnosis",
    "Event",
    "EventType",
    "Issue",
    "JobBundle",
    "JobDetails",
    "JobExists",
    "JobFailed",
    "JobMap",
    "JobNotFound",
    "JobStateError",
    "JobStatus",
    "JobSummary",
    "LogChunk",
    "Manifest",
    "ManifestError",
    "Message",
    "MessageInvalid",
    "MessageNotFound",
    "MirrorNeuronError",
    "NodeInfo",
    "NotFound",
    "PayloadTooLarge",
    "RecordDamaged",
    "RuntimeUnavailable",
    "Settings",
    "SettingsError",
    "WaitTimeout",
    "async_result",
    "cancel",
    "cleanup_jobs",
    "cluster_overview",
    "dead_letters",
    "events",
    "inspect_agents",
    "inspect_job",
    "inspect_nodes",
    "job_details",
    "job_manifest",
    "list_jobs",
    "logs",
    "pause",
    "replay",
    "resume",
    "retry",
    "run_manifest",
    "send_message",
    "stream_events",
    "validate_manifest",
    "wait_for_job",
    "why",
]

_HOME = {
    "JobBundle": "bundle.load",
    "validate_manifest": "bundle.load",
    "Manifest": "bundle.manifest",
    "Client": "api.client",
    "Cause": "diagnostics.job_diagnosis",
    "Diagnosis": "diagnostics.job_diagnosis",
    "Settings": "settings",
    **dict.fromkeys(
        (
            "async_result",
            "cancel",
            "cleanup_jobs",
            "cluster_overview",
            "dead_letters",
            "events",
            "inspect_agents",
            "inspect_job",
            "inspect_nodes",
            "job_details",
            "job_manifest",
            "list_jobs",
            "logs",
            "pause",
            "replay",
            "resume",
            "retry",
            "run_manifest",
            "send_message",
            "stream_events",
            "wait_for_job",
            "why",
        ),
        "api.default_client",
    ),
    **dict.fromkeys(
        (
            "AgentSnapshot",
            "AgentStatus",
            "ClusterOverview",
            "DeadLetter",
            "Event",
            "EventType",
            "JobDetails",
            "JobMap",
            "JobStatus",
            "JobSummary",
            "LogChunk",
            "NodeInfo",
        ),
        "job",
    ),
}


def __getattr__(name: str) -> Any:
    if name == "aio":  # `mirrorneuron.aio.run_manifest` after `import mirrorneuron`
        with FIRST_USE:
            return import_module("mirrorneuron.aio")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with FIRST_USE:
        found = getattr(import_module(f"mirrorneuron.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
