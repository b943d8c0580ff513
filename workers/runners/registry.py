"""The runners by the names that `config.runner_module` may give. A second runner is registered here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorneuron.bundle.node_config import RUNNERS as NAMES
from mirrorneuron.settings import Settings
from workers.runners.host_local import HostLocal
from workers.runners.protocol import Runner

#: The valid values of `config.runner_module`: all are names of the only runner.
RUNNERS: Final[dict[str, Callable[[Settings], Runner]]] = dict.fromkeys(NAMES, HostLocal)
