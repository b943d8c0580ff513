"""Bundles with countable effects, whose commands wait for the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def gated(folder: Path, **policies: Any) -> dict[str, Any]:
    """One executor that appends its pid to `starts`, waits for the file `gate`, and then completes the job."""
    turns = "n=0; while [ ! -e gate ] && [ $n -lt 3000 ]; do n=$((n+1)); sleep 0.02; done"  # at most a minute
    script = f"cd {folder}; echo $$ >> starts; {turns}; echo passed"
    return {
        "manifest_version": "1.0",
        "graph_id": "gated",
        "entrypoints": ["worker"],
        "nodes": [
            {
                "node_id": "worker",
                "agent_type": "executor",
                "config": {"command": ["sh", "-c", script], "output_message_type": "done"},
            },
            {"node_id": "sink", "agent_type": "aggregator", "config": {"complete_after": 1}},
        ],
        "edges": [{"from_node": "worker", "to_node": "sink", "message_type": "done"}],
        "policies": policies,
    }


def starts(folder: Path) -> list[int]:
    """The process ids of the commands that have started."""
    file = folder / "starts"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def queued(folder: Path, count: int) -> dict[str, Any]:
    """`gated` with *count* messages: the first one runs, the others wait in the mailbox."""
    manifest = gated(folder)
    manifest["initial_inputs"] = {"worker": [{"n": n} for n in range(count)]}
    manifest["nodes"][1]["config"] = {"complete_after": count}
    return manifest


def failing_once(folder: Path, backoff_ms: int) -> dict[str, Any]:
    """One executor that appends its pid to `starts`, fails the first time, and is retried."""
    script = f"cd {folder}; echo $$ >> starts; [ -e failed ] && exit 0; touch failed; exit 1"
    config = {"command": ["sh", "-c", script], "max_attempts": 2, "retry_backoff_ms": backoff_ms, "complete_job": True}
    return {
        "manifest_version": "1.0",
        "graph_id": "failing_once",
        "entrypoints": ["worker"],
        "nodes": [{"node_id": "worker", "agent_type": "executor", "config": config}],
    }


def fed() -> dict[str, Any]:
    """A sensor that completes the job after three observations, to which only the test sends messages."""
    return {
        "manifest_version": "1.0",
        "graph_id": "fed",
        "entrypoints": ["start"],
        "nodes": [
            {"node_id": "start", "agent_type": "router", "config": {"emit_type": "unused"}},
            {"node_id": "ear", "agent_type": "sensor", "config": {"complete_job": True, "complete_after": 3}},
        ],
        "edges": [],
    }
