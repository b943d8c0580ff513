"""The parameters of one run of an executor or a module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirrorneuron.message import Message
from mirrorneuron.store.protocol import JobRef
from workers.lifecycle.run_handle import RunHandle
from workers.runners.protocol import Echo
from workers.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an executor or a module; its draft is passed separately."""

    runtime: Runtime
    job: JobRef
    message: Message  #: for a batch: the last message, with the list of all bodies as its body
    payloads_path: Path | None  #: the bundle's payloads, unpacked on this node
    lease: dict[str, Any]  #: {lease_id, pool, slots, queue_wait_ms}
    attempt: int  #: counted from 1
    echo: Echo  #: receives the output while the run prints it
    handle: RunHandle  #: ends the run from another thread
