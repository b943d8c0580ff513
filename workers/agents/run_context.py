"""What an executor or a module is given for one run, beside its draft."""

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
    runtime: Runtime
    job: JobRef
    message: Message  #: of a batch: the last one, with the list of all bodies
    payloads_path: Path | None  #: the bundle's payloads, unpacked on this node
    lease: dict[str, Any]  #: {lease_id, pool, slots, queue_wait_ms}
    attempt: int  #: 1 for the first
    echo: Echo  #: told of what it prints, as it comes
    handle: RunHandle  #: ends the run from outside
