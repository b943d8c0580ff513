"""Runners run the commands of executors. `protocol` defines a runner; `host_local` is the only one.

Read the parts of `host_local` in this order: sandbox_paths, uploads, body_file, command, child_process, output_capture,
orphan_killer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorneuron.bundle.node_config import RUNNERS as NAMES
from mirrorneuron.settings import Settings
from workers.runners.host_local import HostLocal
from workers.runners.protocol import Runner, RunRequest, RunResult, SandboxResult

#: The valid values of `config.runner_module`: all are names of the only runner.
RUNNERS: Final[dict[str, Callable[[Settings], Runner]]] = dict.fromkeys(NAMES, HostLocal)

__all__ = ["RUNNERS", "HostLocal", "RunRequest", "RunResult", "Runner", "SandboxResult"]
