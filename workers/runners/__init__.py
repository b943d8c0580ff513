"""Runners carry out executors' commands: `run` (the protocol), then `host_local` and what it is made of.

`host_local` reads in this order: sandbox_paths, uploads, body_file, command, process, capture, deathwatch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorneuron.bundle.node_config import RUNNERS as NAMES
from mirrorneuron.settings import Settings
from workers.runners.host_local import HostLocal
from workers.runners.protocol import Runner, RunRequest, RunResult, SandboxResult

#: What `config.runner_module` may say: all are names of the one runner that there is.
RUNNERS: Final[dict[str, Callable[[Settings], Runner]]] = dict.fromkeys(NAMES, HostLocal)

__all__ = ["RUNNERS", "HostLocal", "RunRequest", "RunResult", "Runner", "SandboxResult"]
